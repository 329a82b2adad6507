//! The one rule inside a sandbox: the address that all of them have becomes the one that the host knows.
//!
//! ```text
//! table ip fermata { chain leave { type nat hook postrouting priority srcnat; oifname "eth0" snat to ADDRESS } }
//! ```
//!
//! Written as `nf_tables` messages, because a namespace is made for every sandbox: starting `nft` takes 10 ms of a processor,
//! which a create under way then lacks; this takes 0.2 ms.

use std::io;
use std::net::Ipv4Addr;

use super::link::INSIDE_NAME;
use super::netlink::{CREATE, IPV4, Message, Socket};

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4 | NESTED;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4 | NESTED;
const LIST_ELEMENT: u16 = 1 | NESTED;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2 | NESTED;
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const COMPARE_REGISTER: u16 = 1;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3 | NESTED;
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2 | NESTED;
const DATA_VALUE: u16 = 1;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS_REGISTER: u16 = 3;

const REGISTER: u32 = 1;
const OUTGOING_INTERFACE_NAME: u32 = 7;
const EQUAL: u32 = 0;
const SOURCE_NAT: u32 = 0;
const ACCEPT: u32 = 1;
const POST_ROUTING: u32 = 4;
/// `NF_IP_PRI_NAT_SRC`
const PRIORITY: u32 = 100;
/// `IFNAMSIZ`: names are compared with their padding.
const INTERFACE_NAME_SIZE: usize = 16;

const TABLE: &str = "fermata";
const CHAIN: &str = "leave";

/// `struct nfgenmsg`
const BODY: [u8; 4] = [IPV4, 0, 0, 0];
/// Of a batch: the subsystem that it is for, in network order.
const BATCH_BODY: [u8; 4] = [0, 0, 0, 10];

/// Puts the rule in force in the namespace of the calling thread, which has no rules yet.
pub(super) fn install(address: Ipv4Addr) -> io::Result<()> {
    Socket::netfilter()?.transaction(
        Message::new(BATCH_BEGIN, 0, &BATCH_BODY),
        vec![table(), chain(), rule(address)],
        Message::new(BATCH_END, 0, &BATCH_BODY),
    )
}

fn table() -> Message {
    Message::new(NEW_TABLE, CREATE, &BODY).text(TABLE_NAME, TABLE)
}

fn chain() -> Message {
    Message::new(NEW_CHAIN, CREATE, &BODY)
        .text(CHAIN_TABLE, TABLE)
        .text(CHAIN_NAME, CHAIN)
        .nest(CHAIN_HOOK, &[], |hook| {
            hook.attribute(HOOK_NUMBER, &POST_ROUTING.to_be_bytes())
                .attribute(HOOK_PRIORITY, &PRIORITY.to_be_bytes())
        })
        .attribute(CHAIN_POLICY, &ACCEPT.to_be_bytes())
        .text(CHAIN_TYPE, "nat")
}

fn rule(address: Ipv4Addr) -> Message {
    let mut interface = [0; INTERFACE_NAME_SIZE];
    interface[..INSIDE_NAME.len()].copy_from_slice(INSIDE_NAME.as_bytes());
    let register = REGISTER.to_be_bytes();
    Message::new(NEW_RULE, CREATE, &BODY)
        .text(RULE_TABLE, TABLE)
        .text(RULE_CHAIN, CHAIN)
        .nest(RULE_EXPRESSIONS, &[], |list| {
            let list = expression(list, "meta", |meta| {
                meta.attribute(META_REGISTER, &register)
                    .attribute(META_KEY, &OUTGOING_INTERFACE_NAME.to_be_bytes())
            });
            let list = expression(list, "cmp", |compare| {
                compare
                    .attribute(COMPARE_REGISTER, &register)
                    .attribute(COMPARE_OPERATION, &EQUAL.to_be_bytes())
                    .nest(COMPARE_DATA, &[], |data| {
                        data.attribute(DATA_VALUE, &interface)
                    })
            });
            let list = expression(list, "immediate", |immediate| {
                immediate.attribute(IMMEDIATE_REGISTER, &register).nest(
                    IMMEDIATE_DATA,
                    &[],
                    |data| data.attribute(DATA_VALUE, &address.octets()),
                )
            });
            expression(list, "nat", |nat| {
                nat.attribute(NAT_TYPE, &SOURCE_NAT.to_be_bytes())
                    .attribute(NAT_FAMILY, &u32::from(IPV4).to_be_bytes())
                    .attribute(NAT_ADDRESS_REGISTER, &register)
            })
        })
}

fn expression(list: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    list.nest(LIST_ELEMENT, &[], |element| {
        element
            .text(EXPRESSION_NAME, name)
            .nest(EXPRESSION_DATA, &[], fill)
    })
}
