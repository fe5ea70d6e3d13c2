//! What the fuzz targets share.

pub mod boot;
pub mod device;
