//! A monitor's command line: words with places for what is known only when a level
//! is booted.
//!
//! Words are split as a shell does it, by blanks, quotes and backslashes, but no
//! shell is run: nothing else means anything, and a value stays within the word
//! that it is put into.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text isn't a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A quote that isn't closed.
    #[error("the command line has a {0} without its other end")]
    Quote(char),
    /// A backslash with nothing behind it.
    #[error("the command line ends with a backslash")]
    Backslash,
    /// A bracket without the other, or one within another pair.
    #[error("the command line has a [ or ] that doesn't pair: they don't nest")]
    Bracket,
    /// Nothing that could be run.
    #[error("the command line doesn't begin with a program")]
    NoProgram,
    /// A placeholder that there isn't.
    #[error(
        "the command line has {{{0}}}, which is none of {{kernel}}, {{initrd}}, {{cmdline}}, \
         {{cpus}}, {{memory}}, {{channel}} and {{disk}}"
    )]
    Unknown(String),
    /// One that every monitor needs.
    #[error("the command line lacks {{{0}}}: {{kernel}}, {{initrd}} and {{cmdline}} must be in it")]
    Lacks(Placeholder),
    /// The machine hasn't what the command line asks for.
    #[error("the command line has {{disk}}, and the machine has no disk: put its words into [ ]")]
    NoDisk,
}

/// A place in a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The path of the kernel, a bzImage.
    Kernel,
    /// The path of the initramfs.
    Initrd,
    /// The kernel's command line, one word.
    Cmdline,
    /// The number of vCPUs.
    Cpus,
    /// The memory's size in MiB.
    Memory,
    /// The path of a Unix socket to which the monitor connects: what the guest's
    /// virtio-console port `nestling.channel` is joined to.
    Channel,
    /// The path of the first disk.
    Disk,
}

impl Placeholder {
    const ALL: [Self; 7] = [
        Self::Kernel,
        Self::Initrd,
        Self::Cmdline,
        Self::Cpus,
        Self::Memory,
        Self::Channel,
        Self::Disk,
    ];
    const REQUIRED: [Self; 3] = [Self::Kernel, Self::Initrd, Self::Cmdline];

    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Cmdline => "cmdline",
            Self::Cpus => "cpus",
            Self::Memory => "memory",
            Self::Channel => "channel",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is put into the places.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initrd: &'a Path,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// vCPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Where the level below listens for the channel.
    pub channel: &'a Path,
    /// The machine's disk, if it has one.
    pub disk: Option<&'a Path>,
}

impl Values<'_> {
    fn of(&self, placeholder: Placeholder) -> Option<OsString> {
        Some(match placeholder {
            Placeholder::Kernel => self.kernel.into(),
            Placeholder::Initrd => self.initrd.into(),
            Placeholder::Cmdline => self.cmdline.into(),
            Placeholder::Cpus => self.cpus.to_string().into(),
            Placeholder::Memory => self.memory_mib.to_string().into(),
            Placeholder::Channel => self.channel.into(),
            Placeholder::Disk => self.disk?.into(),
        })
    }
}

/// A command line with places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandLine {
    text: String,
    program: String,
    arguments: Vec<Group>,
}

/// Words that are given together or, if they are optional and one of their values
/// isn't there, not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    optional: bool,
    words: Vec<Word>,
}

/// A word: texts and places that follow each other.
type Word = Vec<Piece>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Placeholder),
}

impl CommandLine {
    /// The program, as the command line names it.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The words after the program.
    ///
    /// # Errors
    /// [`Error::NoDisk`] if they can't be without a disk, and there is none.
    pub fn arguments(&self, values: &Values<'_>) -> Result<Vec<OsString>, Error> {
        let mut all = Vec::new();
        for Group { optional, words } in &self.arguments {
            let filled: Option<Vec<OsString>> =
                words.iter().map(|word| fill(word, values)).collect();
            match filled {
                Some(words) => all.extend(words),
                None if *optional => {}
                None => return Err(Error::NoDisk),
            }
        }
        Ok(all)
    }

    fn has(&self, placeholder: Placeholder) -> bool {
        let words = self.arguments.iter().flat_map(|group| &group.words);
        words
            .flatten()
            .any(|piece| *piece == Piece::Place(placeholder))
    }
}

/// The word with its values; none if one of them isn't there.
fn fill(word: &Word, values: &Values<'_>) -> Option<OsString> {
    word.iter()
        .map(|piece| match piece {
            Piece::Text(text) => Some(text.into()),
            Piece::Place(placeholder) => values.of(*placeholder),
        })
        .collect()
}

impl FromStr for CommandLine {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut words = split(text)?.into_iter();
        let program = words.next().filter(|word| word.bracket().is_none());
        let program = program.filter(|word| !word.text.is_empty());
        let command = Self {
            text: text.to_owned(),
            program: program.ok_or(Error::NoProgram)?.text,
            arguments: groups(words)?,
        };
        match Placeholder::REQUIRED.iter().find(|one| !command.has(**one)) {
            Some(missing) => Err(Error::Lacks(*missing)),
            None => Ok(command),
        }
    }
}

impl TryFrom<String> for CommandLine {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<CommandLine> for String {
    fn from(command: CommandLine) -> Self {
        command.text
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A word as it was written, without its quotes.
#[derive(Debug, Default)]
struct Raw {
    text: String,
    quoted: bool,
}

impl Raw {
    /// The bracket that it is, if it is one.
    fn bracket(&self) -> Option<char> {
        match self.text.as_str() {
            "[" if !self.quoted => Some('['),
            "]" if !self.quoted => Some(']'),
            _ => None,
        }
    }
}

fn split(text: &str) -> Result<Vec<Raw>, Error> {
    let mut words = Vec::new();
    let mut word: Option<Raw> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default().quoted = true;
            }
            (Some(end), c) if c == end => quote = None,
            (None, '\\') => {
                let next = chars.next().ok_or(Error::Backslash)?;
                let word = word.get_or_insert_default();
                word.quoted = true;
                word.text.push(next);
            }
            (Some('"'), '\\') => {
                let next = chars.next_if(|next| matches!(next, '"' | '\\'));
                word.get_or_insert_default().text.push(next.unwrap_or(c));
            }
            (_, c) => word.get_or_insert_default().text.push(c),
        }
    }
    words.extend(word);
    quote.map_or(Ok(words), |open| Err(Error::Quote(open)))
}

fn groups(words: impl Iterator<Item = Raw>) -> Result<Vec<Group>, Error> {
    let mut all = Vec::new();
    let mut group = Group::default();
    for word in words {
        let bracket = word.bracket();
        match bracket {
            Some(c) if group.optional == (c == '[') => return Err(Error::Bracket),
            Some(c) => {
                let next = Group {
                    optional: c == '[',
                    words: Vec::new(),
                };
                all.push(std::mem::replace(&mut group, next));
            }
            None => group.words.push(pieces(&word.text)?),
        }
    }
    if group.optional {
        return Err(Error::Bracket);
    }
    all.push(group);
    Ok(all)
}

/// Finds the places of a word: `{`, small letters, `}`. Other braces are themselves,
/// as in JSON.
fn pieces(word: &str) -> Result<Word, Error> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let name = after.split_once('}').filter(|(name, _)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase())
        });
        let Some((name, after_name)) = name else {
            text.push('{');
            rest = after;
            continue;
        };
        let place = Placeholder::ALL.iter().find(|one| one.name() == name);
        let place = place.ok_or_else(|| Error::Unknown(name.to_owned()))?;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Place(*place));
        rest = after_name;
    }
    text.push_str(rest);
    if !text.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What every command line must have, in the words of `VALUES`.
    const NEEDED: &str = "{kernel} {initrd} {cmdline}";
    const FILLED: [&str; 3] = ["/k", "/i", "quiet x=1"];

    fn arguments(text: &str, disk: Option<&str>) -> Result<Vec<String>, Error> {
        let values = Values {
            kernel: Path::new("/k"),
            initrd: Path::new("/i"),
            cmdline: "quiet x=1",
            cpus: 2,
            memory_mib: 512,
            channel: Path::new("/c"),
            disk: disk.map(Path::new),
        };
        let command: CommandLine = format!("vmm {text} {NEEDED}").parse()?;
        assert_eq!(command.program(), "vmm");
        let words = command.arguments(&values)?.into_iter();
        let mut words: Vec<String> = words.map(|word| word.into_string().unwrap()).collect();
        assert_eq!(words.split_off(words.len() - 3), FILLED);
        Ok(words)
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (text, words) in [
            ("a  b\tc", &["a", "b", "c"][..]),
            (r#"'a b' "c d""#, &["a b", "c d"]),
            (r#"a'b 'c"d "e"#, &["ab cd e"]),
            (r#"'a\"b' "c\"d\\e\f""#, &[r#"a\"b"#, r#"c"d\e\f"#]),
            (r"a\ b \' \\", &["a b", "'", r"\"]),
            ("'' \"\"", &["", ""]),
            ("$HOME * ~ # ; |", &["$HOME", "*", "~", "#", ";", "|"]),
        ] {
            assert_eq!(arguments(text, None).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn values_stay_within_their_words() {
        for (text, words) in [
            ("-append={cmdline}!", &["-append=quiet x=1!"][..]),
            (r#""{cmdline}" '{cmdline}'"#, &["quiet x=1", "quiet x=1"]),
            ("{cpus}{memory},{channel}", &["2512,/c"]),
            (
                r#"'{"driver":"x","path":"{channel}"}' {} {Kernel} {"#,
                &[r#"{"driver":"x","path":"/c"}"#, "{}", "{Kernel}", "{"],
            ),
        ] {
            assert_eq!(arguments(text, None).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn optional_words_are_left_out_together() {
        let text = "a [ -drive file={disk} -device b ] c '[' \\]";
        let without = ["a", "c", "[", "]"];
        let with = ["a", "-drive", "file=/d", "-device", "b", "c", "[", "]"];
        assert_eq!(arguments(text, None).unwrap(), without);
        assert_eq!(arguments(text, Some("/d")).unwrap(), with);
        assert_eq!(arguments("{disk}", None).unwrap_err(), Error::NoDisk);
    }

    #[test]
    fn what_is_no_command_line_is_told_why() {
        for (text, error) in [
            ("", Error::NoProgram),
            (" \t", Error::NoProgram),
            ("'' {kernel}", Error::NoProgram),
            ("[ a ]", Error::NoProgram),
            ("a 'b", Error::Quote('\'')),
            ("a \"b'", Error::Quote('"')),
            ("a \\", Error::Backslash),
            ("a [ b", Error::Bracket),
            ("a ] b", Error::Bracket),
            ("a [ [ b ] ]", Error::Bracket),
            ("a {kernels}", Error::Unknown("kernels".into())),
            ("a {kernel} {initrd}", Error::Lacks(Placeholder::Cmdline)),
            ("a {kernel} {cmdline}", Error::Lacks(Placeholder::Initrd)),
            (
                "{kernel} {initrd} {cmdline}",
                Error::Lacks(Placeholder::Kernel),
            ),
        ] {
            assert_eq!(text.parse::<CommandLine>().unwrap_err(), error, "{text}");
        }
        let unknown = Error::Unknown("x".into()).to_string();
        assert!(unknown.starts_with("the command line has {x}, which is none of {kernel},"));
        let lacks = Error::Lacks(Placeholder::Kernel).to_string();
        assert!(lacks.starts_with("the command line lacks {kernel}:"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,80}") {
            if let Ok(command) = text.parse::<CommandLine>() {
                prop_assert_eq!(String::from(command.clone()), text);
                let json = serde_json::to_string(&command).unwrap();
                prop_assert_eq!(serde_json::from_str::<CommandLine>(&json).unwrap(), command);
            }
        }

        #[test]
        fn a_quoted_word_is_itself(word in "[^']{0,20}") {
            prop_assume!(!word.contains('{'));
            prop_assert_eq!(arguments(&format!("'{word}'"), None).unwrap(), [word]);
        }
    }
}
