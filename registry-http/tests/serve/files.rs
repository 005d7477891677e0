//! What is said of files that cannot be used

use registry_http::tls::{ClientAuth, Tls, TlsError, TlsOptions};

use crate::support::Authority;

fn refusal(options: TlsOptions) -> (TlsError, String) {
    let error = Tls::open(options).unwrap_err();
    let text = error.to_string();
    (error, text)
}

#[test]
fn each_error_names_the_file_and_what_to_do() {
    let authority = Authority::new();
    let options = authority.options();
    let good = authority.issue("localhost");
    let encrypted = good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let cut = &good.certificate[..good.certificate.len() - 20];
    let no_base64 = good.key.replace("\nM", "\n%");
    let damaged = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
    let two = format!("{}{damaged}", good.certificate);
    let bad_key = "-----BEGIN PRIVATE KEY-----\nMAAA\n-----END PRIVATE KEY-----\n";
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nMAAA\n-----END CERTIFICATE REQUEST-----\n";
    for (file, content, expected) in [
        ("tls.crt", "", "the certificate file `PATH` is empty"),
        ("tls.key", " \n", "the key file `PATH` is empty"),
        (
            "tls.crt",
            "hello",
            "expected `-----BEGIN CERTIFICATE-----` in the certificate file `PATH`, found no PEM",
        ),
        (
            "tls.crt",
            "0\u{1}",
            "found binary DER; convert it with `openssl x509",
        ),
        (
            "tls.crt",
            &good.key,
            "found a private key; are certificate and key swapped?",
        ),
        (
            "tls.key",
            &good.certificate,
            "found a certificate; are certificate and key swapped?",
        ),
        ("tls.crt", request, "found a request for a certificate"),
        (
            "tls.crt",
            cut,
            "the certificate file `PATH` is not valid PEM: a section has no `-----END",
        ),
        (
            "tls.key",
            &no_base64,
            "the key file `PATH` is not valid PEM: what is between the markers is not base64",
        ),
        (
            "tls.crt",
            damaged,
            "certificate 1 in the certificate file `PATH` is damaged",
        ),
        (
            "tls.crt",
            &two,
            "certificate 2 in the certificate file `PATH` is damaged",
        ),
        ("tls.key", &encrypted, "the key in `PATH` is encrypted"),
        ("tls.key", older, "the key in `PATH` is encrypted"),
        ("tls.key", bad_key, "the key in `PATH` cannot be used"),
        (
            "tls.key",
            &authority.issue("localhost").key,
            "the key in `PATH` does not belong to the first certificate in `",
        ),
    ] {
        authority.install(&good);
        let path = authority.write(file, content);
        let (_, text) = refusal(options.clone());
        let expected = expected.replace("PATH", path.to_str().unwrap());
        assert!(text.contains(&expected), "{text}\nand not\n{expected}");
        for line in content
            .lines()
            .filter(|line| !line.starts_with("---") && line.len() > 4)
        {
            assert!(!text.contains(line), "a line of the file in {text}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let authority = Authority::new();
    for file in ["tls.crt", "tls.key"] {
        let options = authority.options();
        std::fs::remove_file(authority.path(file)).unwrap();
        let (error, text) = refusal(options);
        assert!(matches!(error, TlsError::Unreadable { .. }), "{text}");
        assert!(text.contains(authority.path(file).to_str().unwrap()));
        assert!(text.contains("No such file"), "{text}");
    }
}

#[test]
fn a_chain_in_the_wrong_order_is_recognized() {
    let authority = Authority::new();
    let options = authority.options();
    let issued = authority.issue("localhost");
    authority.write("tls.key", &issued.key);
    authority.write(
        "tls.crt",
        &format!("{}{}", authority.pem(), issued.certificate),
    );
    let (error, text) = refusal(options);
    assert!(
        matches!(
            error,
            TlsError::Mismatch {
                belongs_to: Some(2),
                ..
            }
        ),
        "{text}"
    );
    assert!(text.contains("it belongs to certificate 2 there"), "{text}");
}

#[test]
fn authorities_of_clients_are_there_when_they_are_needed() {
    let authority = Authority::new();
    let nowhere: [&str; 0] = [];
    let (error, text) = refusal(
        authority
            .options()
            .with_client_auth(ClientAuth::Require, nowhere),
    );
    assert!(matches!(error, TlsError::NoClientCa), "{text}");

    let with = |auth| {
        let file = authority.write("clients.pem", "nobody");
        authority.options().with_client_auth(auth, [file])
    };
    let (_, text) = refusal(with(ClientAuth::VerifyIfGiven));
    assert!(text.contains("in the client CA file `"), "{text}");
    // Nobody is asked for one, so that nothing is needed to verify it.
    assert!(Tls::open(with(ClientAuth::None)).is_ok());
}

#[test]
fn a_key_that_everybody_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;

    let authority = Authority::new();
    let options = authority.options();
    let tls = Tls::open(options).unwrap();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(authority.path("tls.key"), permissions).unwrap();
        tls.reload().unwrap();
        let warnings = tls.warnings(std::time::SystemTime::now());
        assert_eq!(warnings.len(), usize::from(warned), "{mode:o}");
        for warning in warnings {
            assert!(warning.to_string().contains("(mode 644)"), "{warning}");
        }
    }
}

#[test]
fn what_is_printed_for_debugging_has_no_key_in_it() {
    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let text = format!("{tls:?}");
    assert!(text.contains("tls.key"));
    let key = std::fs::read_to_string(authority.path("tls.key")).unwrap();
    assert!(!text.contains(key.lines().nth(1).unwrap()));
}
