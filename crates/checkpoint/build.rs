//! Compiles CRIU's interface without an external `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/criu.proto"], ["proto"])?;
    prost_build::compile_fds(descriptors)?;
    Ok(())
}
