//! dig, and what it prints.

use super::output;

/// What dig found.
#[derive(Debug)]
pub struct Answer {
    /// All that it printed.
    pub text: String,
    /// The status, as NOERROR.
    pub status: String,
    /// The flags, as qr rd ra.
    pub flags: Vec<String>,
    /// The values of the records in the answer.
    pub records: Vec<String>,
}

/// Runs dig in the calling thread's namespace.
///
/// # Panics
/// If it gets no answer.
#[must_use]
pub fn dig(arguments: &[&str]) -> Answer {
    let bounds = ["+tries=1", "+time=15", "+nocookie"];
    let text = output("dig", &[&bounds, arguments].concat());
    let after = |mark: &str, end: char| {
        let (_, rest) = text.split_once(mark)?;
        rest.split(end).next().map(str::to_owned)
    };
    let section = text.split_once(";; ANSWER SECTION:\n");
    let section = section.map_or("", |(_, rest)| rest);
    let records = section.lines().take_while(|line| !line.is_empty());
    // A record is its name, life, class, type and value.
    let value = |line: &str| {
        line.split_whitespace()
            .skip(4)
            .collect::<Vec<_>>()
            .join(" ")
    };
    Answer {
        status: after("status: ", ',').unwrap_or_else(|| panic!("no status: {text}")),
        flags: after(";; flags: ", ';')
            .map(|flags| flags.split(' ').map(str::to_owned).collect())
            .unwrap_or_default(),
        records: records.map(value).collect(),
        text,
    }
}
