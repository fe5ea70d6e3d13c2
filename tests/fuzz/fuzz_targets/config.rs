//! The configuration file, up to the machine it describes.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nestling::config::{ConfigFile, VmConfig};

fuzz_target!(|text: &str| {
    let message = match ConfigFile::parse(text, Path::new("machine.toml")) {
        Err(error) => error.to_string(),
        Ok(file) => match VmConfig::from_merged(file) {
            Err(error) => error.to_string(),
            Ok(_) => return,
        },
    };
    assert!(!message.contains('\n'), "{message}");
});
