//! The protocol of a cutover, and of its way back, as small models: every order of events is tried, with drivers and servers that die
//! at every step. No message may be lost or doubled in any of them.
//!
//! What is modelled is `src/migration/`, step by step; whoever changes a step there changes it here first.

#[cfg(test)]
mod cutover;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod intake;
