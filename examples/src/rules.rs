//! A file of access rules, read again when it changes

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use registry_auth::{Access, Decision, Policy, Principal, RuleList};

/// The largest file that is read: the longest list of rules has less
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

/// A [`RuleList`] in a YAML file
///
/// # Examples
///
/// ```
/// use registry_auth::{Policy, Principal};
/// use registry_core::route;
/// use registry_examples::rules::RuleFile;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("rules.yml");
/// std::fs::write(&path, "\
/// rules:
///   - name: everyone-pulls
///     effect: allow
///     subjects: [anyone]
///     repositories: ['**']
///     actions: [pull]
/// ")?;
/// let rules = RuleFile::open(&path)?;
/// let pull = route("GET", "/v2/team/app/tags/list", None)?;
/// assert!(rules.decide(&Principal::Anonymous, &pull.access()[0]).is_allow());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RuleFile {
    path: PathBuf,
    current: ArcSwap<RuleList>,
}

/// Why rules are not in force
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleFileError {
    /// The text is not a list of rules
    #[error("`{}`: {problem}", path.display())]
    Invalid {
        /// The file
        path: PathBuf,
        /// What was expected and what came
        problem: String,
    },
    /// The file cannot be read
    #[error("cannot read the rules `{}`: {source}", path.display())]
    Read {
        /// The file
        path: PathBuf,
        /// Why
        source: io::Error,
    },
}

impl RuleFile {
    /// Reads the file
    ///
    /// # Errors
    ///
    /// [`RuleFileError`], which names the file and the rule. Rules that cannot be read are never
    /// no rules.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RuleFileError> {
        let path = path.into();
        let current = ArcSwap::from_pointee(load(&path)?);
        Ok(Self { path, current })
    }

    /// Reads the file again, and returns how many rules it has; it blocks while it reads
    ///
    /// # Errors
    ///
    /// [`RuleFileError`]; the rules that were in force stay so.
    pub fn reload(&self) -> Result<usize, RuleFileError> {
        let rules = load(&self.path)?;
        let count = rules.rules().len();
        self.current.store(rules.into());
        Ok(count)
    }

    /// The file
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Policy for RuleFile {
    fn decide(&self, principal: &Principal, access: &Access) -> Decision {
        self.current.load().decide(principal, access)
    }
}

fn load(path: &Path) -> Result<RuleList, RuleFileError> {
    let read = |source| RuleFileError::Read {
        path: path.to_owned(),
        source,
    };
    let invalid = |problem: String| RuleFileError::Invalid {
        path: path.to_owned(),
        problem,
    };
    if fs::metadata(path).map_err(read)?.len() > LARGEST_FILE {
        return Err(invalid(format!("it has more than {LARGEST_FILE} bytes")));
    }
    let text = fs::read_to_string(path).map_err(read)?;
    serde_saphyr::from_str::<RuleList>(&text).map_err(|error| {
        let text = error.to_string();
        invalid(text.lines().next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use registry_core::route;

    use super::*;

    const PULL: &str = "\
rules:
  - name: pull
    effect: allow
    subjects: [anyone]
    repositories: ['**']
    actions: [pull]
";

    #[test]
    fn a_bad_file_is_refused_and_keeps_the_rules_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yml");
        let missing = RuleFile::open(&path).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read the rules"), "{missing}");

        fs::write(&path, PULL).unwrap();
        let rules = RuleFile::open(&path).unwrap();
        let access = &route("GET", "/v2/a/tags/list", None).unwrap().access()[0];
        assert!(rules.decide(&Principal::Anonymous, access).is_allow());
        for bad in [
            "",
            "rules: 1",
            "rules: [{name: x}]",
            "rulez: []",
            "rules: [",
        ] {
            fs::write(&path, bad).unwrap();
            let error = rules.reload().unwrap_err().to_string();
            assert!(error.contains("rules.yml"), "{error}");
            assert!(!error.contains('\n'), "{error}");
            assert!(rules.decide(&Principal::Anonymous, access).is_allow());
        }
        fs::write(&path, PULL.replace("allow", "deny")).unwrap();
        assert_eq!(rules.reload().unwrap(), 1);
        assert!(!rules.decide(&Principal::Anonymous, access).is_allow());
    }
}
