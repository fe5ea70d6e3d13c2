//! What a person asks for with `--nested`, and how it is written:
//!
//! ```text
//! auto | on | off                    whether at all
//! vmx | svm                          on, and by this extension
//! vmx,-ept,-vpid                     without these controls
//! auto,+shadow_vmcs,asids=4          with these, where the host can nest
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::control::{self, Control};
use super::{Extension, MIN_ASIDS, vmx};

/// Whether a guest is shown VMX or SVM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// If the host can, and what the host can.
    #[default]
    Auto,
    /// Yes, or an error that says why not.
    On,
    /// No trace of it.
    Off,
}

/// What a person asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Request {
    /// Whether at all.
    pub when: When,
    /// The extension that it names, itself or by a control.
    pub extension: Option<Extension>,
    /// The controls to be hidden, by name.
    pub hidden: BTreeSet<&'static str>,
    /// The controls that must be there, by name.
    pub wanted: BTreeSet<&'static str>,
    /// How many address space identifiers SVM is to have.
    pub asids: Option<u32>,
}

/// Why a request can't be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// A word that is nothing.
    #[error(
        "\"{word}\" is neither auto, on, off, vmx or svm nor a control{}; \
         `nestling doctor --nested` lists the controls",
        .near.as_ref().map(|near| format!(": did you mean {near}?")).unwrap_or_default()
    )]
    Unknown {
        /// The word.
        word: String,
        /// The controls with the nearest names.
        near: Option<String>,
    },
    /// A control of the other vendor.
    #[error("{name} is one of {of}'s controls, and the request is for {asked}")]
    OtherExtension {
        /// The control's name.
        name: String,
        /// The extension that it is of.
        of: Extension,
        /// The extension that was named before.
        asked: Extension,
    },
    /// Controls where there are none.
    #[error("off shows nothing of VMX or SVM: leave \"{0}\" out, or write on instead of off")]
    Off(String),
    /// A control that is to be hidden and to be there.
    #[error("{0} can't be asked for and hidden at once")]
    Contradiction(&'static str),
    /// A control is asked for, and one that it needs is hidden.
    #[error("{child} can't be used without {parent}, which is hidden: hide both or neither")]
    Impossible {
        /// What is asked for.
        child: &'static str,
        /// What is hidden.
        parent: &'static str,
    },
    /// A control that can't be hidden.
    #[error(
        "{0} can't be hidden: it is in the default1 class, which every processor with VMX has \
         (SDM vol. 3D, A.2)"
    )]
    Default1(&'static str),
    /// A number of address space identifiers that is none.
    #[error("\"asids={0}\": give a number, {MIN_ASIDS} or more; one is the host's own")]
    Asids(String),
}

impl Request {
    /// The extension or nothing of it, without a word on controls.
    pub fn plain(when: When) -> Self {
        Self {
            when,
            ..Self::default()
        }
    }

    /// Whether it says anything about controls.
    pub fn chooses(&self) -> bool {
        !self.hidden.is_empty() || !self.wanted.is_empty() || self.asids.is_some()
    }

    /// Takes one word after the first.
    fn take(&mut self, word: &str) -> Result<(), RequestError> {
        if self.when == When::Off {
            return Err(RequestError::Off(word.to_owned()));
        }
        if let Some(number) = word.strip_prefix("asids=") {
            self.expect("asids", Extension::Svm)?;
            let asids = number.parse().ok().filter(|asids| *asids >= MIN_ASIDS);
            self.asids = Some(asids.ok_or_else(|| RequestError::Asids(number.to_owned()))?);
            return Ok(());
        }
        let (name, hide) = match word.strip_prefix('-') {
            Some(name) => (name, true),
            None => (word.strip_prefix('+').unwrap_or(word), false),
        };
        let controls = control::named(name).ok_or_else(|| RequestError::Unknown {
            word: name.to_owned(),
            near: Some(control::nearest(name).join(" or ")).filter(|near| !near.is_empty()),
        })?;
        for control in controls {
            self.choose(control, hide)?;
        }
        Ok(())
    }

    fn choose(&mut self, control: &'static Control, hide: bool) -> Result<(), RequestError> {
        self.expect(control.name, control.place.extension())?;
        if hide && vmx::is_default1(control.place) {
            return Err(RequestError::Default1(control.name));
        }
        let chosen = if hide {
            &mut self.hidden
        } else {
            &mut self.wanted
        };
        chosen.insert(control.name);
        Ok(())
    }

    /// Notes that the request is for `of`, if it isn't for the other.
    fn expect(&mut self, name: &str, of: Extension) -> Result<(), RequestError> {
        match *self.extension.get_or_insert(of) {
            asked if asked == of => Ok(()),
            asked => Err(RequestError::OtherExtension {
                name: name.to_owned(),
                of,
                asked,
            }),
        }
    }

    /// Whether all that is asked for can be there without what is hidden.
    fn check(&self) -> Result<(), RequestError> {
        for child in self.wanted.iter().copied() {
            if self.hidden.contains(child) {
                return Err(RequestError::Contradiction(child));
            }
            let mut needed = vec![child];
            while let Some(control) = needed.pop().and_then(control::control) {
                if self.hidden.contains(control.name) {
                    let parent = control.name;
                    return Err(RequestError::Impossible { child, parent });
                }
                needed.extend(control.needs);
            }
        }
        Ok(())
    }
}

impl FromStr for Request {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, rest) = match text.split_once(',') {
            Some((first, rest)) => (first, Some(rest)),
            None => (text, None),
        };
        let extension = |extension| Self {
            extension: Some(extension),
            ..Self::plain(When::On)
        };
        let mut request = match first {
            "auto" => Self::plain(When::Auto),
            "on" => Self::plain(When::On),
            "off" => Self::plain(When::Off),
            "vmx" => extension(Extension::Vmx),
            "svm" => extension(Extension::Svm),
            _ => {
                let mut request = Self::plain(When::On);
                request.take(first)?;
                request
            }
        };
        for word in rest.iter().flat_map(|rest| rest.split(',')) {
            request.take(word)?;
        }
        request.check()?;
        Ok(request)
    }
}

impl fmt::Display for Request {
    /// As it can be read again, without groups.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.when, self.extension) {
            (When::Auto, _) => "auto",
            (When::Off, _) => "off",
            (When::On, None) => "on",
            (When::On, Some(Extension::Vmx)) => "vmx",
            (When::On, Some(Extension::Svm)) => "svm",
        })?;
        for name in &self.hidden {
            write!(f, ",-{name}")?;
        }
        for name in &self.wanted {
            write!(f, ",+{name}")?;
        }
        match self.asids {
            Some(asids) => write!(f, ",asids={asids}"),
            None => Ok(()),
        }
    }
}

impl From<Request> for String {
    fn from(request: Request) -> Self {
        request.to_string()
    }
}

impl TryFrom<String> for Request {
    type Error = RequestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(names: &[&'static str]) -> BTreeSet<&'static str> {
        names.iter().copied().collect()
    }

    #[test]
    fn requests_are_read() {
        use Extension::{Svm, Vmx};
        type Names = &'static [&'static str];
        let cases: [(&str, When, Option<Extension>, Names, Names); 11] = [
            ("auto", When::Auto, None, &[], &[]),
            ("on", When::On, None, &[], &[]),
            ("off", When::Off, None, &[], &[]),
            ("vmx", When::On, Some(Vmx), &[], &[]),
            ("svm", When::On, Some(Svm), &[], &[]),
            ("vmx,-ept,-vpid", When::On, Some(Vmx), &["ept", "vpid"], &[]),
            ("on,-npt", When::On, Some(Svm), &["npt"], &[]),
            ("-nrips,vgif", When::On, Some(Svm), &["nrips"], &["vgif"]),
            ("auto,+pml", When::Auto, Some(Vmx), &[], &["pml"]),
            (
                "vmx,-flexpriority",
                When::On,
                Some(Vmx),
                &["tpr_shadow", "virtualize_apic_accesses"],
                &[],
            ),
            (
                "vmx,-apicv,-posted_interrupts",
                When::On,
                Some(Vmx),
                &[
                    "apic_register_virtualization",
                    "posted_interrupts",
                    "virtual_interrupt_delivery",
                ],
                &[],
            ),
        ];
        for (text, when, extension, hidden, wanted) in cases {
            let expected = Request {
                when,
                extension,
                hidden: set(hidden),
                wanted: set(wanted),
                asids: None,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        let asids: Request = "svm,asids=4".parse().unwrap();
        assert_eq!(asids.asids, Some(4));
    }

    #[test]
    fn what_can_not_be_is_explained() {
        let cases = [
            ("", "\"\" is neither auto, on"),
            (
                "yes",
                "\"yes\" is neither auto, on, off, vmx or svm nor a control",
            ),
            ("ON", "\"ON\" is neither"),
            ("vmx,", "\"\" is neither"),
            ("vmx,-unrestricted", "did you mean unrestricted_guest?"),
            ("vmx,on", "\"on\" is neither"),
            (
                "vmx,-npt",
                "npt is one of SVM's controls, and the request is for VMX",
            ),
            (
                "svm,-ept",
                "ept is one of VMX's controls, and the request is for SVM",
            ),
            ("on,-ept,-npt", "npt is one of SVM's controls"),
            ("vmx,asids=4", "asids is one of SVM's controls"),
            ("off,-ept", "leave \"-ept\" out"),
            ("vmx,ept,-ept", "ept can't be asked for and hidden at once"),
            (
                "vmx,+unrestricted_guest,-ept",
                "unrestricted_guest can't be used without ept, which is hidden",
            ),
            (
                "vmx,-secondary_controls,pml",
                "pml can't be used without secondary_controls",
            ),
            ("vmx,-cr3_load_exiting", "default1"),
            ("svm,asids=1", "\"asids=1\": give a number, 2 or more"),
            ("svm,asids=all", "\"asids=all\": give a number"),
        ];
        for (text, said) in cases {
            let error = text.parse::<Request>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn json_holds_the_text() {
        let request: Request = "vmx,-ept".parse().unwrap();
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(json, "\"vmx,-ept\"");
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
        assert!(serde_json::from_str::<Request>("\"vmx,-epd\"").is_err());
        assert_eq!(Request::default(), Request::plain(When::Auto));
    }

    /// Texts that have a chance.
    fn text() -> impl Strategy<Value = String> {
        let names: Vec<String> = vmx::CONTROLS
            .iter()
            .chain(super::super::svm::CONTROLS)
            .map(|control| control.name.to_owned())
            .chain(["apicv", "asids=3", "auto", "vmx", ""].map(str::to_owned))
            .collect();
        let word = (
            prop::sample::select(vec!["", "-", "+"]),
            prop::sample::select(names),
        );
        let words =
            prop::collection::vec(word.prop_map(|(sign, name)| format!("{sign}{name}")), 0..5);
        (
            prop::sample::select(vec!["auto", "on", "off", "vmx", "svm"]),
            words,
        )
            .prop_map(|(first, words)| [vec![first.to_owned()], words].concat().join(","))
    }

    proptest! {
        #[test]
        fn a_request_is_written_as_it_is_read(text in text()) {
            if let Ok(request) = text.parse::<Request>() {
                prop_assert_eq!(request.to_string().parse(), Ok(request));
            }
        }

        #[test]
        fn any_text_is_taken_or_refused_in_one_line(text in ".*") {
            if let Err(error) = text.parse::<Request>() {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
