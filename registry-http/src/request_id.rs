//! The name of a request, by which a person finds it in every log on its way

/// The id of a request
///
/// In the extensions of a request, if whoever serves it put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);
