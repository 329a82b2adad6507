//! Both drivers, the layers and the whole pool against a real kernel: loop devices, btrfs, EROFS, overlayfs. Needs root.

#[cfg(test)]
mod ahead;
#[cfg(test)]
mod base;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod fidelity;
#[cfg(test)]
mod full;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod listing;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod support;
