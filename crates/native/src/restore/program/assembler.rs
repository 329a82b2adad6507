//! Lists of system calls and the data that they point to, laid out for one address.
//!
//! ```text
//! base ─► code (own pages, executable) ─► report ─► data and lists, as they are added
//! ```

use std::collections::HashMap;

use fermata_sys::interpreter::{Expect, OPERATION_BYTES, Operation, REPORT_BYTES, RETURN, code};

pub(crate) const PAGE_BYTES: u64 = 4096;

/// Lays out a program for an address. What it makes has the same size for every address.
#[derive(Debug)]
pub(crate) struct Assembler {
    base: u64,
    /// Behind the code.
    data: Vec<u8>,
    words: HashMap<String, (u64, u64)>,
    once: HashMap<Vec<u8>, u64>,
    /// Who complains.
    who: String,
}

/// A list under construction.
#[derive(Debug, Default)]
pub(crate) struct List {
    operations: Vec<Operation>,
}

impl List {
    /// Appends a call that must succeed; `words` say what it does (`map memory`).
    pub(crate) fn call<const COUNT: usize>(
        &mut self,
        assembler: &mut Assembler,
        words: &str,
        number: i64,
        arguments: [u64; COUNT],
    ) -> &mut Operation {
        let complaint = assembler.complaint(words);
        let mut given = [0; 6];
        given[..COUNT].copy_from_slice(&arguments);
        self.push(Operation {
            number: number.cast_unsigned(),
            arguments: given,
            expect: Expect::Success,
            child: 0,
            complaint,
        })
    }

    /// Ends the list: the thread goes on where the frame says.
    pub(crate) fn end(&mut self, stack_pointer: u64) {
        self.push(Operation {
            number: RETURN,
            arguments: [stack_pointer, 0, 0, 0, 0, 0],
            expect: Expect::Anything,
            child: 0,
            complaint: (0, 0),
        });
    }

    fn push(&mut self, operation: Operation) -> &mut Operation {
        self.operations.push(operation);
        let last = self.operations.len() - 1;
        &mut self.operations[last]
    }
}

/// A program for one address.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub(crate) base: u64,
    /// The code's pages, then the data's.
    pub(crate) bytes: Vec<u8>,
    /// How many of them are code.
    pub(crate) code_bytes: u64,
    pub(crate) list: u64,
    pub(crate) report: u64,
}

impl Assembler {
    /// `report` is the descriptor that complaints are written to.
    pub(crate) fn new(base: u64, report: i32, who: String) -> Self {
        let mut data = vec![0; REPORT_BYTES];
        data[..8].copy_from_slice(&i64::from(report).to_ne_bytes());
        Self {
            base,
            data,
            words: HashMap::new(),
            once: HashMap::new(),
            who,
        }
    }

    fn code_bytes() -> u64 {
        (code().len() as u64).next_multiple_of(PAGE_BYTES)
    }

    fn report(&self) -> u64 {
        self.base + Self::code_bytes()
    }

    /// Adds bytes; returns where they will be.
    pub(crate) fn add(&mut self, bytes: &[u8], alignment: usize) -> u64 {
        self.data
            .resize(self.data.len().next_multiple_of(alignment), 0);
        let address = self.report() + self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        address
    }

    /// Adds bytes that nothing writes to, unless the same are there already.
    pub(crate) fn add_once(&mut self, bytes: Vec<u8>) -> u64 {
        if let Some(known) = self.once.get(&bytes) {
            return *known;
        }
        let place = self.add(&bytes, 8);
        self.once.insert(bytes, place);
        place
    }

    /// Adds words of 64 bits.
    pub(crate) fn add_words(&mut self, words: impl IntoIterator<Item = u64>) -> u64 {
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
        self.add(&bytes, 8)
    }

    /// Adds a list; returns where it will be.
    pub(crate) fn add_list(&mut self, list: &List) -> u64 {
        let mut bytes = Vec::with_capacity(list.operations.len() * OPERATION_BYTES);
        for operation in &list.operations {
            bytes.extend_from_slice(&operation.to_bytes());
        }
        self.add(&bytes, 8)
    }

    fn complaint(&mut self, words: &str) -> (u64, u64) {
        if let Some(known) = self.words.get(words) {
            return *known;
        }
        let text = format!("{} cannot {words}: error 0x", self.who);
        let place = (self.add(text.as_bytes(), 1), text.len() as u64);
        self.words.insert(words.to_owned(), place);
        place
    }

    pub(crate) fn finish(mut self, list: &List) -> Assembled {
        let list = self.add_list(list);
        let mut bytes = code().to_vec();
        bytes.resize(
            usize::try_from(Self::code_bytes()).unwrap_or(bytes.len()),
            0,
        );
        let report = self.report();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        Assembled {
            base: self.base,
            bytes,
            code_bytes: Self::code_bytes(),
            list,
            report,
        }
    }
}
