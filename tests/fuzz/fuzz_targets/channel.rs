//! What climbs from a guest: lines, then events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling::channel::{Event, Lines, MAX_LINE, MAX_TEXT, Overlong, What, printable_lines};

fuzz_target!(|data: &[u8]| {
    let Some((&lowest, data)) = data.split_first() else {
        return;
    };
    let mut lines = Lines::new(MAX_LINE, Overlong::Drop);
    let mut each = |line: &[u8]| {
        let Ok(event) = Event::parse(line, lowest % 8) else {
            return;
        };
        if let What::Console { line } = &event.what {
            assert!(line.len() <= MAX_TEXT && !line.chars().any(char::is_control));
        }
        if let What::Workload(result) = &event.what {
            assert_eq!(printable_lines(&result.output, MAX_TEXT), result.output);
        }
        // What was cleaned once is passed on as it is.
        let passed = event.clone().line();
        let again = Event::parse(passed.trim_ascii_end(), lowest % 8);
        assert_eq!(again.expect("an event of our own"), event);
    };
    lines.push(data, &mut each);
    lines.finish(&mut each);
});
