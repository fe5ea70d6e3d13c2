//! `nestling image`: the image that every level of a nest boots.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Format, Verdict, print_result};
use crate::image::{self, Addition, Compression, kernel};
use crate::nest::plan;
use crate::order::Order;

/// The subcommands of `nestling image`.
#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Build the image from a kernel, its modules and this very program
    Build(Build),
}

impl Image {
    /// Does what the subcommand says.
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        match self {
            Self::Build(build) => build.execute(format),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  Debian's kernel for clouds, the initramfs and the kernel as files:
    nestling image build --output nest.img --kernel-output vmlinuz

  This host's own kernel, with a program and its libraries:
    nestling image build --kernel host --program /usr/bin/lscpu --output nest.img

  A bootable ISO, for a bare machine or a USB stick:
    nestling image build --iso nest.iso --order appliance.json";

/// The flags of `nestling image build`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Build {
    /// The kernel: a Debian package by name, a .deb, a bzImage, or `host`
    /// [default: linux-image-6.12-cloud-amd64, or what else can be had]
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<kernel::Source>,

    /// The kernel's modules, where --kernel names a bzImage
    #[arg(long, value_name = "FOLDER")]
    modules: Option<PathBuf>,

    /// A kernel module to take besides those a nest needs; may be repeated
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,

    /// A program to take with its shared libraries; may be repeated
    #[arg(long, value_name = "FILE")]
    program: Vec<PathBuf>,

    /// A file or folder to take: SOURCE[:/DESTINATION]; may be repeated
    #[arg(long, value_name = "FILE")]
    add: Vec<Addition>,

    /// What the first level does when it boots from the image by itself [default of an ISO: boots
    /// L1, which boots L2, which says hello]
    #[arg(long, value_name = "FILE")]
    order: Option<PathBuf>,

    /// How the initramfs is stored: none or zstd
    #[arg(long, value_name = "METHOD", default_value = "none")]
    compress: Compression,

    /// Write the initramfs here
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write the kernel here
    #[arg(long, value_name = "FILE")]
    kernel_output: Option<PathBuf>,

    /// Write a bootable ISO here
    #[arg(long, value_name = "FILE")]
    iso: Option<PathBuf>,

    /// The kernel's command line on the ISO
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=ttyS0 console=tty0 quiet panic=-1"
    )]
    iso_cmdline: String,

    /// The folder for what is built [default: nestling in XDG_CACHE_HOME]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

impl Build {
    fn execute(self, format: Format) -> Result<Verdict, Failure> {
        let order = self.order()?;
        let built = image::build(&image::Options {
            kernel: self.kernel.unwrap_or_default(),
            modules: self.modules,
            extra_modules: self.module,
            init: None,
            order,
            programs: self.program,
            additions: self.add,
            compression: self.compress,
            iso: self.iso.is_some().then_some(self.iso_cmdline),
            cache: self.cache,
        })
        .map_err(Failure::failed)?;
        let outputs = [
            (self.output.as_ref(), Some(&built.initramfs)),
            (self.kernel_output.as_ref(), Some(&built.kernel)),
            (self.iso.as_ref(), built.iso.as_ref()),
        ];
        for (output, cached) in outputs {
            if let (Some(output), Some(cached)) = (output, cached) {
                image::export(cached, output).map_err(Failure::failed)?;
            }
        }
        print_result(&describe(&built, format))?;
        Ok(Verdict::Done)
    }
}

impl Build {
    /// The order to put into the image: an ISO always has one.
    fn order(&self) -> Result<Option<Vec<u8>>, Failure> {
        match &self.order {
            Some(path) => {
                let bytes = fs::read(path).map_err(|error| {
                    Failure::usage(format!("can't read the order {}: {error}", path.display()))
                })?;
                Order::parse(&bytes).map_err(|error| {
                    Failure::usage(format!("the order {}: {error}", path.display()))
                })?;
                Ok(Some(bytes))
            }
            None if self.iso.is_some() => {
                let order = plan::appliance().map_err(Failure::failed)?;
                serde_json::to_vec_pretty(&order)
                    .map(Some)
                    .map_err(Failure::failed)
            }
            None => Ok(None),
        }
    }
}

fn describe(built: &image::Image, format: Format) -> String {
    let manifest = &built.manifest;
    match format {
        Format::Json => {
            let object = json!({
                "version": manifest.version,
                "kernel": built.kernel,
                "initramfs": built.initramfs,
                "iso": built.iso,
                "digest": built.digest,
                "manifest": manifest,
            });
            format!("{object}\n")
        }
        Format::Text => {
            let mut rows = vec![
                (
                    "kernel",
                    format!("{} ({})", manifest.kernel, manifest.origin),
                ),
                ("modules", manifest.modules.join(" ")),
                ("bzImage", built.kernel.display().to_string()),
                ("initramfs", built.initramfs.display().to_string()),
            ];
            if let Some(iso) = &built.iso {
                rows.push(("ISO", iso.display().to_string()));
            }
            rows.push(("digest", built.digest.clone()));
            rows.into_iter()
                .map(|(name, value)| format!("{name:<10} {value}\n"))
                .collect()
        }
    }
}
