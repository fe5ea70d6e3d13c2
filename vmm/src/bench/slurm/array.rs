//! Job arrays: which boots are in one, and what each of its tasks runs.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The boots of one job array. A task's index is its boot's number less an offset, as
/// Slurm has a highest index (MaxArraySize, slurm.conf(5)).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Array {
    offset: usize,
    /// In ascending order.
    indexes: Vec<usize>,
}

impl Array {
    /// As few arrays as hold `boots`, with indexes below `size`.
    pub(super) fn of(boots: &[usize], size: usize) -> Vec<Self> {
        let size = size.max(1);
        let mut boots = boots.to_vec();
        boots.sort_unstable();
        boots.dedup();
        boots
            .chunk_by(|one, next| one / size == next / size)
            .map(|boots| {
                let offset = boots[0] / size * size;
                let indexes = boots.iter().map(|boot| boot - offset).collect();
                Self { offset, indexes }
            })
            .collect()
    }

    /// The boot of each task, with its index.
    pub(super) fn boots(&self) -> impl Iterator<Item = (usize, usize)> {
        let indexes = self.indexes.iter();
        indexes.map(|index| (self.offset + index, *index))
    }

    /// The option of sbatch(1) that says which tasks there are: `--array=0-9,12%4`.
    pub(super) fn option(&self, parallel: Option<u32>) -> String {
        let mut option = String::from("--array=");
        let runs = self.indexes.chunk_by(|one, next| one + 1 == *next);
        for (position, run) in runs.enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(option, "{comma}{}", run[0]).expect("a string takes all");
            if let [_, .., last] = run {
                write!(option, "-{last}").expect("a string takes all");
            }
        }
        if let Some(parallel) = parallel {
            write!(option, "%{parallel}").expect("a string takes all");
        }
        option
    }

    /// The line of sh(1) that measures a task's boot.
    pub(super) fn script(&self, program: &Path, folder: &Path) -> OsString {
        let mut script = OsString::from("exec ");
        script.push(quoted(program.as_os_str()));
        script.push(" bench boot ");
        script.push(quoted(folder.as_os_str()));
        script.push(format!(" $((SLURM_ARRAY_TASK_ID + {}))", self.offset));
        script
    }
}

/// The option of sbatch(1) that names each task's log, as [`log`] does.
pub(super) fn output(folder: &Path) -> OsString {
    let mut option = OsString::from("--output=");
    // The sign of a pattern stands for itself when it is doubled.
    option.push(replaced(folder.as_os_str(), b'%', b"%%"));
    option.push("/slurm-%A_%a.log");
    option
}

/// The name of a task's log in the folder.
pub(super) fn log(job: u64, index: usize) -> String {
    format!("slurm-{job}_{index}.log")
}

/// A word that sh(1) takes as it is.
fn quoted(word: &OsStr) -> OsString {
    let mut quoted = OsString::from("'");
    // Nothing ends quotes but their own sign, which has to stand outside.
    quoted.push(replaced(word, b'\'', b"'\\''"));
    quoted.push("'");
    quoted
}

fn replaced(text: &OsStr, byte: u8, by: &[u8]) -> OsString {
    let pieces: Vec<&[u8]> = text.as_bytes().split(|found| *found == byte).collect();
    OsString::from_vec(pieces.join(by))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command;

    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tasks_are_written_as_ranges() {
        let option = |boots: &[usize], parallel| Array::of(boots, 1001)[0].option(parallel);
        assert_eq!(option(&[3], None), "--array=3");
        assert_eq!(option(&[2, 0, 1, 4, 7, 8], None), "--array=0-2,4,7-8");
        assert_eq!(option(&[0, 1], Some(4)), "--array=0-1%4");
    }

    #[test]
    fn boots_past_the_highest_index_are_in_another_array() {
        let arrays = Array::of(&[1, 9, 10, 25], 10);
        let (folder, program) = (Path::new("/r"), Path::new("/n"));
        let all: Vec<_> = arrays
            .iter()
            .map(|array| (array.option(None), array.script(program, folder)))
            .collect();
        let script = |offset| {
            let line = format!("exec '/n' bench boot '/r' $((SLURM_ARRAY_TASK_ID + {offset}))");
            OsString::from(line)
        };
        let expected = [("1,9", 0), ("0", 10), ("5", 20)]
            .map(|(indexes, offset)| (format!("--array={indexes}"), script(offset)));
        assert_eq!(all, expected);
    }

    proptest! {
        #[test]
        fn every_boot_is_in_one_array(boots in btree_set(0_usize..5000, 0..50), size in 0_usize..2000) {
            let list: Vec<usize> = boots.iter().copied().collect();
            let arrays = Array::of(&list, size);
            let mut seen = BTreeSet::new();
            for (boot, index) in arrays.iter().flat_map(Array::boots) {
                prop_assert!(index < size.max(1));
                prop_assert!(seen.insert(boot));
            }
            prop_assert_eq!(seen, boots);
        }
    }

    #[test]
    fn a_shell_takes_any_path_as_it_is() {
        let array = &Array::of(&[1003], 1000)[0];
        let program = Path::new("/bin/echo");
        let folder = Path::new("/a 'b' \"$c\" `d` %A\\\n;e");
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(array.script(program, folder))
            .env("SLURM_ARRAY_TASK_ID", "3")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("bench boot {} 1003\n", folder.display()));
    }

    #[test]
    fn a_folder_is_no_pattern() {
        let option = output(Path::new("/a%A"));
        assert_eq!(option, "--output=/a%%A/slurm-%A_%a.log");
        assert_eq!(log(7, 2), "slurm-7_2.log");
    }
}
