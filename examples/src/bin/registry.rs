//! `registry`: a container registry on a folder

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use registry_auth::AllowAll;
use registry_examples::access_log::AccessLog;
use registry_examples::compose;
use registry_examples::config::{Config, Driver, listen_addresses, variables};
use registry_http::server::{ServeOptions, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A container registry on a folder, in distribution's layout
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a registry (also what happens without a command)
    Serve(ServeArguments),
}

#[derive(clap::Args, Default)]
struct ServeArguments {
    /// A configuration file in distribution's format (version 0.1)
    config: Option<PathBuf>,
    /// The address to listen on [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The folder to store in [default: ./registry-data]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // `--help` and `--version`
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            eprintln!("{line}; see `registry serve --help`");
            return ExitCode::from(2);
        }
    };
    // Causes of server errors go to standard error; `RUST_LOG` chooses others.
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();

    let Command::Serve(arguments) = arguments
        .command
        .unwrap_or_else(|| Command::Serve(ServeArguments::default()));
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: ServeArguments) -> Result<(), String> {
    let ServeArguments {
        config,
        listen,
        root,
    } = arguments;
    let (mut config, warnings) =
        Config::load(config.as_deref(), variables()).map_err(|error| error.to_string())?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if let Some(listen) = listen {
        config.http.listen = listen;
    }
    if let Some(root) = root {
        config.storage.driver = Driver::Folder(root);
    }
    let addresses = listen_addresses(&config.http.listen).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(async {
        // The address first: a second registry started by mistake then leaves the folder alone.
        let listener = TcpListener::bind(&addresses[..]).await.map_err(|error| {
            format!(
                "cannot listen on `{}`: {error}; is another registry running? choose an address \
                 with `--listen`",
                config.http.listen
            )
        })?;
        let address = listener
            .local_addr()
            .map_err(|error| format!("cannot read the address that was bound: {error}"))?;
        let store = compose::open_store(&config.storage.driver).map_err(|error| error.to_string())?;
        let (log, writer) = AccessLog::new(std::io::stdout());
        let service = compose::service(&config, store, Arc::new(AllowAll), Arc::new(log));
        let shutdown = stop_signal()?;

        // Not `println!`: a reader that has gone must not stop the registry.
        let _ = writeln!(
            std::io::stdout(),
            "registry {version} listening on http://{address}\n\
             storing in {storage}\n\
             open to everyone who reaches this address\n\
             try: docker pull alpine && docker tag alpine {host}/alpine && docker push {host}/alpine",
            version = env!("CARGO_PKG_VERSION"),
            storage = compose::describe_storage(&config.storage.driver),
            host = reachable(address),
        );
        let stopped = serve(listener, service, ServeOptions::default(), shutdown).await;
        if stopped.aborted > 0 {
            eprintln!(
                "stopped; {} connections were cut off in the middle of a transfer",
                stopped.aborted
            );
        }
        writer.join();
        Ok(())
    })
}

/// The address under which a client on this machine reaches the registry
fn reachable(address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    }
}

/// Resolves at the first SIGTERM or SIGINT; at the second the process ends at once
fn stop_signal() -> Result<impl Future<Output = ()>, String> {
    let install = |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
    let mut terminate = install(SignalKind::terminate())?;
    let mut interrupt = install(SignalKind::interrupt())?;
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        eprintln!(
            "stopping; running transfers are given time to finish, a second signal stops at once"
        );
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            std::process::exit(1);
        });
    })
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
