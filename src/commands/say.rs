//! How commands speak.
//!
//! `println!` panics where nobody listens any more (`nsqbridge status | head`), in the middle of a move as well. These go on: how it ended
//! the exit code says.

/// A line on standard output.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

/// Lines on standard output that end themselves.
macro_rules! say_as_is {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stdout(), $($words)*);
    }};
}

/// A line on standard error.
macro_rules! tell {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
