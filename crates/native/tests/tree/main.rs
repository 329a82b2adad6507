//! Trees that the kernel grows, compared with what was asked for.
//!
//! A program without the test harness, whose threads would forbid it to clone itself.
#![expect(clippy::unwrap_used, reason = "a test's fixture fails the test")]
#![expect(clippy::print_stdout, reason = "the runner reads it")]

mod cases;
mod model;
mod world;

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let names = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect::<Vec<_>>();
    for (name, case) in cases::ALL {
        let is_wanted = names.is_empty() || names.iter().any(|wanted| name.contains(*wanted));
        // None is ignored, which is asked for separately.
        if has("--list") && !has("--ignored") {
            println!("{name}: test");
        } else if is_wanted && !has("--list") {
            case();
            println!("test {name} ... ok");
        }
    }
}
