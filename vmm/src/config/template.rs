//! Where a template comes from: a name, a file, or the configuration itself.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nestling_arch::template::{Template, TextError};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

use super::file::one_line;

/// Where a template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateSource {
    /// It is here: a named one, or one that is written out.
    Here(Box<Template>),
    /// It is in this file, JSON or TOML.
    File(PathBuf),
}

/// Why a template can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// No baseline's name, and no file.
    #[error("{0}")]
    Unknown(TextError),
    /// The file can't be read.
    #[error("can't read the template {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It isn't of the schema.
    #[error("{place}: {message}")]
    Parse {
        /// The file, and the line if that is known.
        place: String,
        /// What is wrong there, in one line.
        message: String,
    },
}

impl TemplateSource {
    /// The file, if it is one.
    pub(super) fn file(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Here(_) => None,
            Self::File(path) => Some(path),
        }
    }

    /// The template itself.
    ///
    /// # Errors
    /// When the file can't be read or doesn't hold a template.
    pub fn read(self) -> Result<Template, TemplateError> {
        let path = match self {
            Self::Here(template) => return Ok(*template),
            Self::File(path) => path,
        };
        let text = fs::read_to_string(&path).map_err(|source| not_read(&path, source))?;
        if text.trim_start().starts_with('{') {
            return from_json(&text, &path.display().to_string());
        }
        toml::from_str(&text).map_err(|error| {
            let (line, message) = one_line(&error, &text);
            TemplateError::Parse {
                place: format!("{}:{line}", path.display()),
                message,
            }
        })
    }
}

/// A word that is no file was probably meant as a name.
fn not_read(path: &Path, source: io::Error) -> TemplateError {
    let word = path.to_str().filter(|text| !text.contains(['/', '.']));
    match word.map(Template::named) {
        Some(Err(error)) if source.kind() == io::ErrorKind::NotFound => {
            TemplateError::Unknown(error)
        }
        _ => TemplateError::Read {
            path: path.into(),
            source,
        },
    }
}

fn from_json(text: &str, place: &str) -> Result<Template, TemplateError> {
    serde_json::from_str(text).map_err(|error| TemplateError::Parse {
        place: place.to_owned(),
        message: error.to_string(),
    })
}

impl FromStr for TemplateSource {
    type Err = TemplateError;

    /// Takes a name, a path, or JSON as a level is given it by the one below.
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if text.starts_with('{') {
            return from_json(text, "the template").map(|template| Self::Here(Box::new(template)));
        }
        Ok(match Template::named(text) {
            Ok(template) => Self::Here(Box::new(template)),
            Err(_) => Self::File(text.into()),
        })
    }
}

impl<'de> Deserialize<'de> for TemplateSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TemplateSource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a template's name or file, or a template as a table")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TemplateSource, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<TemplateSource, M::Error> {
                let template = Template::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TemplateSource::Here(Box::new(template)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Template, String> {
        let source: TemplateSource = text
            .parse()
            .map_err(|error: TemplateError| error.to_string())?;
        source.read().map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_comes_by_name_by_file_or_as_text() {
        let named = Template::named("x86-64-v3").expect("a baseline");
        assert_eq!(read("x86-64-v3"), Ok(named.clone()));
        let json = serde_json::to_string(&named).expect("it can be written");
        assert_eq!(read(&json), Ok(named.clone()));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("v3");
        for text in [
            json,
            serde_json::to_string_pretty(&named).expect("it can be written"),
            toml::to_string(&named).expect("it can be written"),
        ] {
            fs::write(&path, text).expect("a file");
            assert_eq!(read(path.to_str().expect("a path")), Ok(named.clone()));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lab.toml");
        let place = path.to_str().expect("a path");
        for (text, said) in [
            (
                "version = 1\nname = \"lab\"\nhide = 7\n",
                ":3: invalid type: integer `7`, expected a sequence",
            ),
            (
                "version = 1\nname = \"lab\"\n[cpuid.\"0x99\"]\neax = \"0x0\"\n",
                "cpuid.\"0x99\": no leaf that KVM shows to guests is known by this number",
            ),
            ("{\"version\": 1,\n}", ": trailing comma at line 2 column 1"),
        ] {
            fs::write(&path, text).expect("a file");
            let error = read(place).expect_err(text);
            assert!(error.starts_with(place) && error.contains(said), "{error}");
        }
        let absent = read("absent.toml").expect_err("no file");
        assert!(
            absent.starts_with("can't read the template absent.toml: "),
            "{absent}"
        );
        let word = read("x86-64-v9").expect_err("no name");
        assert!(
            word.starts_with("there is no template `x86-64-v9`; there are "),
            "{word}"
        );
        let json = read("{}").expect_err("no template");
        assert!(json.starts_with("the template: missing field"), "{json}");
    }
}
