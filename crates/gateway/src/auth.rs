//! Who may call.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// The one token that opens this server. Cheap to clone; never printed.
#[derive(Clone)]
pub struct Auth {
    digest: Arc<[u8; 32]>,
}

impl Auth {
    /// Lets in whoever shows this token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self {
            digest: Arc::new(Sha256::digest(token.as_bytes()).into()),
        }
    }

    /// Whether an `Authorization` header's value carries the token.
    #[must_use]
    pub fn permits(&self, authorization: Option<&str>) -> bool {
        authorization
            .and_then(bearer)
            .is_some_and(|token| self.is_token(token))
    }

    /// Digests are compared, and all of them, so that the time it takes tells nothing about the token.
    fn is_token(&self, guess: &str) -> bool {
        let guess: [u8; 32] = Sha256::digest(guess.as_bytes()).into();
        let difference = self
            .digest
            .iter()
            .zip(&guess)
            .fold(0, |difference, (left, right)| {
                black_box(difference | (left ^ right))
            });
        difference == 0
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Auth(..)")
    }
}

/// The scheme's name is case-insensitive (RFC 9110, section 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_opens() {
        let auth = Auth::new("secret");
        assert!(auth.permits(Some("Bearer secret")));
        assert!(auth.permits(Some("bearer secret")));
        for wrong in [
            "Bearer secreT",
            "Bearer secre",
            "Bearer secret2",
            "Bearer ",
            "Basic secret",
            "secret",
            "",
        ] {
            assert!(!auth.permits(Some(wrong)), "{wrong:?}");
        }
        assert!(!auth.permits(None));
    }

    #[test]
    fn the_token_is_not_printed() {
        assert!(!format!("{:?}", Auth::new("secret")).contains("secret"));
    }
}
