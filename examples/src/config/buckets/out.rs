//! The drivers for object stores as they are printed

use super::super::Driver;
use super::super::render::Out;
use super::super::secret::HIDDEN;
use super::{Azure, Connection, Encryption, Gcs, Objects, S3};

/// The section of an object store under `storage`, by its name
///
/// What another name stands for is printed as `s3`, so that it says what is in force.
pub(in super::super) fn driver(
    driver: &Driver,
    connection: &Connection,
) -> Option<(&'static str, Out)> {
    let (name, out) = match driver {
        Driver::S3(store) => ("s3", s3(store, connection)),
        Driver::Azure(store) => ("azure", azure(store)),
        Driver::Gcs(store) => ("gcs", gcs(store)),
        Driver::Folder(_) | Driver::Memory => return None,
    };
    Some((name, out))
}

/// `registry.storage`
pub(in super::super) fn connection(connection: &Connection) -> Out {
    Out::some([
        ("cafile", connection.ca_file.as_deref().map(Out::path)),
        ("timeout", Some(Out::duration(connection.timeout))),
        (
            "concurrency",
            Some(Out::number(connection.concurrency as u64)),
        ),
        ("patience", Some(Out::duration(connection.patience))),
    ])
}

fn hidden<T>(secret: &Option<T>) -> Option<Out> {
    secret.as_ref().map(|_| Out::text(HIDDEN))
}

fn s3(s3: &S3, connection: &Connection) -> Out {
    let (encrypt, key) = match &s3.encryption {
        Encryption::Bucket => (false, None),
        Encryption::Store => (true, None),
        Encryption::Key(key) => (true, Some(Out::text(key))),
    };
    let text = |text: &Option<String>| text.as_ref().map(Out::text);
    Out::some([
        ("bucket", Some(Out::text(&s3.bucket))),
        ("region", text(&s3.region)),
        ("regionendpoint", text(&s3.endpoint)),
        ("forcepathstyle", s3.path_style.map(Out::Flag)),
        ("accesskey", text(&s3.access_key)),
        ("secretkey", hidden(&s3.secret_key)),
        ("sessiontoken", hidden(&s3.session_token)),
        ("encrypt", Some(Out::Flag(encrypt))),
        ("keyid", key),
        ("secure", Some(Out::Flag(s3.secure))),
        ("skipverify", Some(Out::Flag(connection.skip_verify))),
        ("usedualstack", Some(Out::Flag(s3.dual_stack))),
        ("accelerate", Some(Out::Flag(s3.accelerate))),
        ("usefipsendpoint", Some(Out::Flag(s3.fips))),
        ("objectacl", text(&s3.acl)),
        ("storageclass", text(&s3.storage_class)),
        ("rootdirectory", root(&s3.objects)),
        ("chunksize", s3.objects.part_size.map(Out::number)),
        (
            "multipartcopythresholdsize",
            Some(Out::number(s3.copy_threshold)),
        ),
        ("multipartcopychunksize", Some(Out::number(s3.copy_piece))),
        (
            "multipartcopymaxconcurrency",
            Some(Out::number(s3.copy_concurrency as u64)),
        ),
        ("useragent", text(&connection.user_agent)),
    ])
}

fn azure(azure: &Azure) -> Out {
    let credentials = azure.principal.as_ref().map(|principal| {
        Out::map([
            ("type", Out::text("client_secret")),
            ("clientid", Out::text(&principal.client)),
            ("tenantid", Out::text(&principal.tenant)),
            ("secret", Out::text(HIDDEN)),
        ])
    });
    Out::some([
        ("container", Some(Out::text(&azure.container))),
        ("accountname", Some(Out::text(&azure.account))),
        ("accountkey", hidden(&azure.key)),
        ("credentials", credentials),
        ("serviceurl", azure.endpoint.as_ref().map(Out::text)),
        (
            "max_retries",
            azure.retries.map(|retries| Out::number(retries as u64)),
        ),
        ("rootdirectory", root(&azure.objects)),
    ])
}

fn gcs(gcs: &Gcs) -> Out {
    let credentials = gcs
        .key
        .as_ref()
        .map(|_| Out::map([("private_key", Out::text(HIDDEN))]));
    Out::some([
        ("bucket", Some(Out::text(&gcs.bucket))),
        ("keyfile", gcs.key_file.as_deref().map(Out::path)),
        ("credentials", credentials),
        ("rootdirectory", root(&gcs.objects)),
        ("chunksize", gcs.objects.part_size.map(Out::number)),
    ])
}

fn root(objects: &Objects) -> Option<Out> {
    (!objects.root.is_empty()).then(|| Out::text(&objects.root))
}
