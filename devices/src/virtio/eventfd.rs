//! Event descriptors in the standard library's terms.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// The descriptor of `event`.
pub(crate) fn as_fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: it stays open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
