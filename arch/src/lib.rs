//! Machine data for x86.
