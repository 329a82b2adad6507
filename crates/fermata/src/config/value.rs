//! Values of settings that are more than a word, as text and in the file.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not one of text, json"),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What captures processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Checkpointer {
    /// The native engine, and CRIU for what that cannot hold.
    Auto,
    /// Only the native engine.
    Native,
    /// Only CRIU.
    Criu,
}

impl FromStr for Checkpointer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "criu" => Ok(Self::Criu),
            _ => Err("not one of auto, native, criu"),
        }
    }
}

impl fmt::Display for Checkpointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Criu => "criu",
        })
    }
}

impl From<Checkpointer> for fermata_engine::CheckpointerChoice {
    fn from(checkpointer: Checkpointer) -> Self {
        match checkpointer {
            Checkpointer::Auto => Self::Auto,
            Checkpointer::Native => Self::Native,
            Checkpointer::Criu => Self::Criu,
        }
    }
}

/// Separated by commas in a variable, an array in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct List(pub(crate) Vec<String>);

impl FromStr for List {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        Ok(Self(items.map(str::to_owned).collect()))
    }
}

impl fmt::Display for List {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(", "))
    }
}

/// `NAME=VALUE` words with the shell's quotes in a variable, a table in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Variables(pub(crate) BTreeMap<String, String>);

impl FromStr for Variables {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = shlex::split(text).ok_or("a quote is not closed")?;
        let pair = |word: String| {
            let (name, value) = word.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        };
        let pairs: Option<BTreeMap<_, _>> = words.into_iter().map(pair).collect();
        pairs.map(Self).ok_or("not words of the form NAME=VALUE")
    }
}

/// Only the names: values may be secrets, and this is shown.
impl fmt::Display for Variables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.keys().map(String::as_str).collect();
        formatter.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_with_quotes_and_shown_without_values() {
        let variables: Variables = "A=1 'B=two words'".parse().unwrap();
        assert_eq!(variables.0["B"], "two words");
        assert_eq!(variables.to_string(), "A, B");
        for wrong in ["A", "=1", "'A=1"] {
            wrong.parse::<Variables>().unwrap_err();
        }
    }

    #[test]
    fn an_empty_list_has_no_items() {
        assert_eq!(" , ".parse(), Ok(List::default()));
        assert_eq!(
            "a, b".parse(),
            Ok(List(vec!["a".to_owned(), "b".to_owned()]))
        );
    }
}
