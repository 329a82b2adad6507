//! Objects of every kind, made in one process, captured there, and opened again in another.

#[cfg(test)]
mod counters;
#[cfg(test)]
mod files;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod internet;
#[cfg(test)]
mod pipes;
#[cfg(test)]
mod terminals;
#[cfg(test)]
mod unix;

fn main() {
    #[cfg(test)]
    harness::main(&[
        files::CASES,
        pipes::CASES,
        counters::CASES,
        unix::CASES,
        internet::CASES,
        terminals::CASES,
    ]);
}
