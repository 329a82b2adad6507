use std::process::ExitCode;

use super::session;
use crate::arguments::ExecFlags;
use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;

/// `fermata exec`
pub(super) async fn exec(
    client: &Client,
    flags: ExecFlags,
    printer: Printer,
) -> Result<ExitCode, Failure> {
    let sandbox = client.sandbox(&flags.sandbox).await?;
    session::run(
        client,
        &sandbox.id,
        &flags.process,
        flags.env,
        flags.command,
        printer,
    )
    .await
}
