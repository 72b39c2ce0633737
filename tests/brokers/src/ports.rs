//! Ports that nobody else will take, not even while a server is stopped.
//!
//! A server that is killed and started again must find its ports free, and a RocketMQ broker needs two neighbours of
//! its listen port as well (N-2 and N+1). Ports the kernel hands out promise neither. So a server claims a block of ten
//! ports, by a lock on a file in the temporary folder, for as long as its handle lives: other test processes keep off,
//! and the lock ends with the process. The range lies below the kernel's ephemeral ports, so that no outgoing connection
//! sits on a claimed port either. Strangers are found by probing.

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;

use crate::error::cannot;
use crate::{Error, Result};

/// The first port of the first block.
const FIRST: u16 = 15_000;
/// One past the last port: Linux hands out ephemeral ports from 32,768.
const END: u16 = 32_000;
/// Ports in a block.
pub const BLOCK: u16 = 10;

/// Ten neighbouring ports, claimed until dropped.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _claim: File,
}

impl Ports {
    /// Claims a block of which no port is in use.
    ///
    /// # Errors
    /// Every block is claimed or in use.
    pub fn claim() -> Result<Ports> {
        let folder = env::temp_dir().join("nsqbridge-ports");
        fs::create_dir_all(&folder).map_err(cannot("create", &folder))?;
        // Other users of the machine claim here, too. Refused if one of them created it, and then it is done.
        let _ = fs::set_permissions(&folder, Permissions::from_mode(0o1777));

        let blocks = u64::from((END - FIRST) / BLOCK);
        let start = RandomState::new().hash_one(0) % blocks;
        for step in 0..blocks {
            let index = u16::try_from((start + step) % blocks).unwrap_or(0);
            let base = FIRST + index * BLOCK;
            let path = folder.join(base.to_string());
            let Ok(claim) = OpenOptions::new().create(true).append(true).open(path) else { continue };
            if claim.try_lock().is_ok() {
                let ports = Ports { base, _claim: claim };
                if ports.all_free() {
                    return Ok(ports);
                }
            }
        }
        Err(Error::new(format!("no ten neighbouring ports are free between {FIRST} and {END}")))
    }

    /// The port at `index` in the block, counted from 0.
    ///
    /// # Panics
    /// If `index` is not below [`BLOCK`].
    pub fn get(&self, index: u16) -> u16 {
        assert!(index < BLOCK, "a block has {BLOCK} ports");
        self.base + index
    }

    /// Whether nothing listens on any port of the block, on any address.
    pub fn all_free(&self) -> bool {
        (0..BLOCK).all(|index| TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.get(index))).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn claims_never_overlap() {
        let claims: Vec<Ports> = (0..50).map(|_| Ports::claim().unwrap()).collect();
        let bases: HashSet<u16> = claims.iter().map(|ports| ports.get(0)).collect();
        assert_eq!(bases.len(), claims.len());
    }

    #[test]
    fn a_listener_makes_a_block_busy() {
        let ports = Ports::claim().unwrap();
        assert!(ports.all_free());
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.get(9))).unwrap();
        assert!(!ports.all_free());
    }
}
