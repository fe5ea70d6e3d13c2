//! What the fuzz targets share.

pub mod boot;
pub mod device;
pub mod network;
pub mod records;
