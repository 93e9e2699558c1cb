//! Drives the built program as a user would.
