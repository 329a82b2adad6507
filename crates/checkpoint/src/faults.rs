//! Ends the engine at a step of its work, for tests. Without the feature nothing is ever armed.

#[cfg(feature = "faults")]
pub use armed::arm;

#[cfg(feature = "faults")]
mod armed {
    use std::sync::{Mutex, PoisonError};

    static STEP: Mutex<Option<String>> = Mutex::new(None);

    /// Arms a step of captures by this process; `None` disarms it. A shim has its step in the file `fault` of its run directory.
    pub fn arm(step: Option<&str>) {
        *STEP.lock().unwrap_or_else(PoisonError::into_inner) = step.map(str::to_owned);
    }

    pub(crate) fn is_armed(step: &str) -> bool {
        let armed = STEP.lock().unwrap_or_else(PoisonError::into_inner);
        armed.as_deref() == Some(step)
            || std::fs::read_to_string("fault").is_ok_and(|named| named == step)
    }
}

/// Whether the engine is to be ended when it reaches this step.
#[cfg(feature = "faults")]
pub(crate) fn is_armed(step: &str) -> bool {
    armed::is_armed(step)
}

/// As above.
#[cfg(not(feature = "faults"))]
pub(crate) fn is_armed(_step: &str) -> bool {
    false
}
