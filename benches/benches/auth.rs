//! What every request of a user who is logged in passes

use std::hint::black_box;
use std::task::{Context, Poll, Waker};

use criterion::{Criterion, criterion_group, criterion_main};
use registry_auth::htpasswd::{Entry, File, Htpasswd, Options};
use registry_auth::{Authenticator, Credentials, Password};
use tempfile::tempdir;

fn passwords(c: &mut Criterion) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("htpasswd");
    let password = Password::new("correct horse battery staple");
    let file = (0..100).fold(File::default(), |file, number| {
        file.with(Entry::new(&format!("user{number}"), &password, 4).unwrap())
    });
    file.save(&path).unwrap();
    let htpasswd = Htpasswd::open(path, "realm".parse().unwrap(), Options::default()).unwrap();
    let basic = |password: &str| Credentials::Basic {
        user: "user50".to_owned(),
        password: Password::new(password),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for (name, credentials) in [
        ("right", basic(password.expose())),
        ("wrong", basic("Tr0ub4dor&3")),
    ] {
        // The first time is bcrypt's, and is not measured.
        let first = runtime.block_on(htpasswd.authenticate(&credentials));
        c.bench_function(&format!("htpasswd/remembered {name} password"), |b| {
            b.iter(|| {
                let mut answer = htpasswd.authenticate(black_box(&credentials));
                match answer
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                {
                    Poll::Ready(answer) => assert_eq!(answer, first),
                    Poll::Pending => panic!("it is not remembered"),
                }
            });
        });
    }
}

criterion_group!(benches, passwords);
criterion_main!(benches);
