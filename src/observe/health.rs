//! What a role depends on, and whether it is there.

use std::sync::Arc;

use serde::Serialize;

/// One dependency, as it was when last looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Dependency {
    /// What it is.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// Why it does not; empty when it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Whether the role is of no use without it.
    pub vital: bool,
}

impl Dependency {
    /// One the role cannot do without.
    #[must_use]
    pub fn vital(name: impl Into<String>, state: Result<(), String>) -> Self {
        Self { vital: true, ..Self::part(name, state) }
    }

    /// One the role can do without for a while, or one of several.
    #[must_use]
    pub fn part(name: impl Into<String>, state: Result<(), String>) -> Self {
        Self { name: name.into(), ok: state.is_ok(), detail: state.err().unwrap_or_default(), vital: false }
    }
}

/// Looks at a role's dependencies; answers at once.
pub type Readiness = Arc<dyn Fn() -> Vec<Dependency> + Send + Sync>;
