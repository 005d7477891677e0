//! How the old docker-proxy was told to log

use std::path::{Path, PathBuf};

use tracing_subscriber::filter::LevelFilter;

use super::event::COMPONENT;

/// Why a setting of the old proxy cannot be taken over
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LegacyLogError {
    /// It is no level
    #[error(
        "expected a log level, 0 for warnings, 1 for requests too, 2 for details, or a word such \
         as `info`, not `{0}`"
    )]
    Level(String),
    /// It is no path of a file within a folder
    #[error(
        "expected the full path of a log file, such as `/var/log/acumos/docker-proxy.log`, not \
         `{0}`"
    )]
    File(PathBuf),
}

/// The folder of the platform's logs, from `ACUMOS_DOCKER_PROXY_LOG_FILE`
///
/// The old proxy wrote into that folder itself, where nothing collects; ours writes to
/// `docker-proxy/docker-proxy.log` below it. A file that is in a folder of that name already
/// stays where it is.
///
/// # Errors
///
/// If the path is not absolute, or names no file.
///
/// # Examples
///
/// ```
/// use std::path::Path;
///
/// use registry_examples::acumos_log::legacy_directory;
///
/// let logs = legacy_directory(Path::new("/var/log/acumos/docker-proxy.log"));
/// assert_eq!(logs.as_deref(), Ok(Path::new("/var/log/acumos")));
/// ```
pub fn legacy_directory(file: &Path) -> Result<PathBuf, LegacyLogError> {
    let folder = file
        .parent()
        .filter(|_| file.is_absolute() && file.file_name().is_some());
    let logs = match folder {
        Some(folder) if folder.ends_with(COMPONENT) => folder.parent(),
        folder => folder,
    };
    logs.map(Path::to_owned)
        .ok_or_else(|| LegacyLogError::File(file.to_owned()))
}

/// The level, from `ACUMOS_DOCKER_PROXY_LOG_LEVEL`
///
/// To the old proxy 0 meant nothing of requests and anything above all of them; its templates
/// said 1. So 0 is WARN and 1 is INFO; 2 is DEBUG and more is TRACE, which it did not have. Words
/// are taken too.
///
/// # Errors
///
/// If it is neither a number nor the word of a level.
pub fn legacy_level(level: &str) -> Result<LevelFilter, LegacyLogError> {
    let level = level.trim();
    match level.parse::<u32>() {
        Ok(0) => Ok(LevelFilter::WARN),
        Ok(1) => Ok(LevelFilter::INFO),
        Ok(2) => Ok(LevelFilter::DEBUG),
        Ok(_) => Ok(LevelFilter::TRACE),
        // To its parser no word at all is one.
        Err(_) if level.is_empty() => Err(LegacyLogError::Level(String::new())),
        Err(_) => level
            .parse()
            .map_err(|_| LegacyLogError::Level(level.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_the_file_is_that_of_all_logs() {
        for (file, logs) in [
            ("/var/log/acumos/docker-proxy.log", "/var/log/acumos"),
            ("/logs/docker-proxy/docker-proxy.log", "/logs"),
            ("/x.log", "/"),
        ] {
            assert_eq!(legacy_directory(Path::new(file)), Ok(logs.into()), "{file}");
        }
        for file in ["", "/", "docker-proxy.log", "logs/x.log", "/logs/.."] {
            let error = legacy_directory(Path::new(file)).unwrap_err();
            assert!(
                error.to_string().contains(&format!("not `{file}`")),
                "{error}"
            );
        }
    }

    #[test]
    fn numbers_and_words_are_levels() {
        for (text, level) in [
            ("0", LevelFilter::WARN),
            (" 1 ", LevelFilter::INFO),
            ("2", LevelFilter::DEBUG),
            ("7", LevelFilter::TRACE),
            ("DEBUG", LevelFilter::DEBUG),
            ("info", LevelFilter::INFO),
            ("off", LevelFilter::OFF),
        ] {
            assert_eq!(legacy_level(text), Ok(level), "{text}");
        }
        for text in ["", "loud", "1.5"] {
            assert_eq!(
                legacy_level(text),
                Err(LegacyLogError::Level(text.to_owned()))
            );
        }
    }
}
