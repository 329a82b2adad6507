use fermata_engine::{BuildEvent, BuildStep, Image, ImageOrigin};
use fermata_gateway::rest::model::Build;
use futures::StreamExt as _;
use jiff::Timestamp;

use super::table::table;
use crate::arguments::{BuildFlags, ImageCommand};
use crate::client::Client;
use crate::duration::rough;
use crate::failure::{Explain, Failure};
use crate::printer::Printer;
use crate::size::ByteSize;

/// A build came to no image.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("the build failed: {message}")]
    Failed { message: String },
    #[error("the build's end was not told")]
    NoEnd,
}

impl Explain for BuildError {
    fn hint(&self) -> Option<String> {
        matches!(self, Self::NoEnd)
            .then(|| "it may go on: the same build again finds its result".to_owned())
    }
}

/// `fermata image`
pub(super) async fn image(
    client: &Client,
    command: ImageCommand,
    printer: Printer,
) -> Result<(), Failure> {
    match command {
        ImageCommand::Ls => list(client, printer).await,
        ImageCommand::Inspect { image } => Ok(printer.document(&client.image(&image).await?)?),
        ImageCommand::Rm { images } => remove(client, &images, printer).await,
        ImageCommand::Build(flags) => build(client, flags, printer).await,
    }
}

async fn list(client: &Client, printer: Printer) -> Result<(), Failure> {
    let mut images = client.images().await?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created_at));
    let now = Timestamp::now();
    printer.either(&images, || {
        let rows = images.iter().map(|image| row(image, now));
        table(["ID", "ORIGIN", "SIZE", "CREATED", "SANDBOXES"], rows)
    })?;
    Ok(())
}

fn row(image: &Image, now: Timestamp) -> [String; 5] {
    let origin = match &image.origin {
        ImageOrigin::Base => "base".to_owned(),
        ImageOrigin::Snapshot { sandbox } => format!("snapshot of {sandbox}"),
        ImageOrigin::Build => "build".to_owned(),
    };
    [
        image.id.to_string(),
        origin,
        ByteSize(image.size_bytes).to_string(),
        format!(
            "{} ago",
            rough(now.as_second() - image.created_at.as_second())
        ),
        image.sandboxes.to_string(),
    ]
}

async fn remove(client: &Client, images: &[String], printer: Printer) -> Result<(), Failure> {
    let mut removed = Vec::new();
    for prefix in images {
        let image = client.image(prefix).await?;
        client.remove_image(&image.id).await?;
        if !printer.json() {
            printer.line(image.id.as_str())?;
        }
        removed.push(image);
    }
    if printer.json() {
        printer.document(&removed)?;
    }
    Ok(())
}

async fn build(client: &Client, flags: BuildFlags, printer: Printer) -> Result<(), Failure> {
    let from = match &flags.from {
        Some(prefix) => Some(client.image(prefix).await?.id),
        None => None,
    };
    let packages = (!flags.pip.is_empty()).then_some(BuildStep::Pip(flags.pip));
    let commands = flags.run.into_iter().map(BuildStep::Shell);
    let build = Build {
        from,
        steps: packages.into_iter().chain(commands).collect(),
        environment: flags.env.into_iter().collect(),
    };
    let mut events = client.build(&build).await?;
    while let Some(event) = events.next().await {
        match event? {
            BuildEvent::Output { text } => printer.child_stderr(text.as_bytes()),
            BuildEvent::Failed { message } => return Err(BuildError::Failed { message }.into()),
            BuildEvent::Finished { image, cached } => {
                let document = serde_json::json!({ "image": image, "cached": cached });
                return Ok(printer.either(&document, || image.to_string())?);
            }
        }
    }
    Err(BuildError::NoEnd.into())
}
