//! TEMP
mod disk;
mod log;
mod record;
