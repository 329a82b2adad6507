//! How this processor lays out its extended state (XSAVE; Intel SDM volume 1, chapter 13).

use std::arch::x86_64::__cpuid_count;

/// The leaf of `cpuid` about it.
const LEAF: u32 = 0xd;

/// The legacy region and the header, which every area has.
pub const MINIMUM_BYTES: u32 = 576;

/// Which components user programs may have here, a bit each.
#[must_use]
pub fn components() -> u64 {
    let answer = __cpuid_count(LEAF, 0);
    u64::from(answer.eax) | u64::from(answer.edx) << 32
}

/// Where a component from the third on ends in the standard format.
#[must_use]
pub fn end_of(component: u32) -> u32 {
    let answer = __cpuid_count(LEAF, component);
    answer.ebx.saturating_add(answer.eax)
}
