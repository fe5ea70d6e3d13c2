//! What a person asks for with `--hyperv`, and how it is written:
//!
//! ```text
//! off                       KVM's own interface
//! on                        all that KVM has of Hyper-V's
//! on,-stimer,-evmcs         all but these, and what needs them
//! relaxed,vpindex,time      these and no others
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ENLIGHTENMENTS, Enlightenment};

/// What a person asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Request {
    /// Nothing of Hyper-V.
    #[default]
    Off,
    /// All that KVM has.
    On {
        /// But for these, by name.
        without: BTreeSet<&'static str>,
    },
    /// These, by name.
    These(BTreeSet<&'static str>),
}

/// Why a request can't be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// A word that is nothing.
    #[error("\"{word}\" is no enlightenment: there are {known}; or write on or off")]
    Unknown {
        /// The word.
        word: String,
        /// All names.
        known: String,
    },
    /// One without another that it needs.
    #[error("{child} needs {parent}: add it, or leave both out")]
    Needs {
        /// What is asked for.
        child: &'static str,
        /// What it needs.
        parent: &'static str,
    },
    /// A hidden one where nothing is shown but what is named.
    #[error("\"-{0}\" takes from what `on` gives: write on before it, or leave it out")]
    Hidden(String),
    /// One beside `on`, which gives all.
    #[error("\"{0}\" is among what `on` gives: leave one of them out")]
    Beside(String),
    /// A word behind `off`.
    #[error("off shows nothing of Hyper-V: leave \"{0}\" out, or write on instead of off")]
    Off(String),
}

fn named(word: &str) -> Result<&'static Enlightenment, RequestError> {
    Enlightenment::named(word).ok_or_else(|| RequestError::Unknown {
        word: word.to_owned(),
        known: ENLIGHTENMENTS.map(|known| known.name).join(", "),
    })
}

impl Request {
    /// Whether it asks for nothing.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

impl FromStr for Request {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let (first, rest) = match text.split_once(',') {
            None => (text, None),
            Some((first, rest)) => (first, Some(rest)),
        };
        match (first, rest) {
            ("off", None) => Ok(Self::Off),
            ("off", Some(rest)) => Err(RequestError::Off(rest.to_owned())),
            ("on", rest) => all_but(rest),
            _ => these(text),
        }
    }
}

fn all_but(words: Option<&str>) -> Result<Request, RequestError> {
    let mut without = BTreeSet::new();
    for word in words.into_iter().flat_map(|words| words.split(',')) {
        let Some(name) = word.strip_prefix('-') else {
            named(word)?;
            return Err(RequestError::Beside(word.to_owned()));
        };
        without.insert(named(name)?.name);
    }
    Ok(Request::On { without })
}

fn these(text: &str) -> Result<Request, RequestError> {
    let mut names = BTreeSet::new();
    for word in text.split(',') {
        if let Some(name) = word.strip_prefix('-') {
            return Err(RequestError::Hidden(named(name)?.name.to_owned()));
        }
        names.insert(named(word)?.name);
    }
    for child in ENLIGHTENMENTS.iter().filter(|e| names.contains(e.name)) {
        if let Some(parent) = child.needs.iter().find(|need| !names.contains(*need)) {
            return Err(RequestError::Needs {
                child: child.name,
                parent,
            });
        }
    }
    Ok(Request::These(names))
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On { without } => {
                f.write_str("on")?;
                without.iter().try_for_each(|name| write!(f, ",-{name}"))
            }
            Self::These(names) => {
                let names: Vec<&str> = names.iter().copied().collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl TryFrom<String> for Request {
    type Error = RequestError;

    fn try_from(text: String) -> Result<Self, RequestError> {
        text.parse()
    }
}

impl From<Request> for String {
    fn from(request: Request) -> Self {
        request.to_string()
    }
}
