//! libcryptsetup's errors: an errno says little, so the library's last message is kept and goes into the error.

use std::sync::{Mutex, Once, PoisonError};

use libcryptsetup_rs::consts::vals::CryptLogLevel;
use libcryptsetup_rs::{LibcryptErr, c_logging_callback, set_log_callback};

/// A call of libcryptsetup failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}{}", .message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
pub struct CryptError {
    /// What was tried.
    operation: &'static str,
    /// What the library had to say.
    message: Option<String>,
    source: LibcryptErr,
}

impl CryptError {
    /// The errno, if the library gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match &self.source {
            LibcryptErr::IOError(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

static LAST: Mutex<Option<String>> = Mutex::new(None);

fn remember(level: CryptLogLevel, message: &str, _: Option<&mut ()>) {
    if matches!(level, CryptLogLevel::Error) {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.to_owned());
    }
}

c_logging_callback!(log, (), remember);

/// Runs one call. Nothing is printed: without a callback the library writes to the console.
pub(crate) fn call<T>(
    operation: &'static str,
    run: impl FnOnce() -> Result<T, LibcryptErr>,
) -> Result<T, CryptError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| set_log_callback::<()>(Some(log), None));
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = None;
    run().map_err(|source| {
        let message = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
        CryptError {
            operation,
            message,
            source,
        }
    })
}
