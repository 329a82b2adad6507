//! Files of a sandbox.

use fermata_engine::agent::{FileMatches, FileStatus, Match};

use super::failure::BeamError;
use super::wire::{pod, types};
use super::{Beam, MAX_ANSWER_BYTES, file_mode, processes};

const NEW_FILE: u32 = 0o644;
const NEW_DIRECTORY: u32 = 0o755;

pub(super) async fn upload(
    beam: Beam,
    request: pod::PodSandboxUploadFileRequest,
) -> Result<pod::PodSandboxUploadFileResponse, BeamError> {
    let path = absolute(&request.container_path)?;
    let offset = unsigned("offset", request.offset)?;
    let mode = file_mode::from_go(request.mode, NEW_FILE);
    let agent = beam.handle(&request.container_id).await?.agent;
    agent
        .write_file(&path, offset, mode, request.data.into())
        .await?;
    Ok(pod::PodSandboxUploadFileResponse {
        ok: true,
        ..Default::default()
    })
}

/// The client takes an answer that is shorter than it asked for as the end of the file.
pub(super) async fn download(
    beam: Beam,
    request: pod::PodSandboxDownloadFileRequest,
) -> Result<pod::PodSandboxDownloadFileResponse, BeamError> {
    let path = absolute(&request.container_path)?;
    let offset = unsigned("offset", request.offset)?;
    let length = unsigned("length", request.length.into())?;
    if length > MAX_ANSWER_BYTES {
        return Err(too_large(format!(
            "{length} bytes were asked for, {MAX_ANSWER_BYTES} are possible"
        )));
    }
    let wanted = if length == 0 {
        MAX_ANSWER_BYTES
    } else {
        length
    };
    let agent = beam.handle(&request.container_id).await?.agent;
    let mut data = Vec::new();
    let mut is_end = false;
    while !is_end && count(&data) < wanted {
        let position = offset.saturating_add(count(&data));
        let chunk = agent
            .read_file(&path, position, wanted - count(&data))
            .await?;
        is_end = chunk.end || chunk.data.is_empty();
        data.extend_from_slice(&chunk.data);
    }
    if length == 0 && !is_end {
        return Err(too_large(format!(
            "the file has more than {MAX_ANSWER_BYTES} bytes; read it by offset and length"
        )));
    }
    Ok(pod::PodSandboxDownloadFileResponse {
        ok: true,
        data: data.into(),
        ..Default::default()
    })
}

pub(super) async fn stat(
    beam: Beam,
    request: pod::PodSandboxStatFileRequest,
) -> Result<pod::PodSandboxStatFileResponse, BeamError> {
    let path = absolute(&request.container_path)?;
    let agent = beam.handle(&request.container_id).await?.agent;
    Ok(pod::PodSandboxStatFileResponse {
        ok: true,
        file_info: Some(describe(&agent.stat(&path).await?)?),
        ..Default::default()
    })
}

pub(super) async fn list(
    beam: Beam,
    request: pod::PodSandboxListFilesRequest,
) -> Result<pod::PodSandboxListFilesResponse, BeamError> {
    let path = absolute(&request.container_path)?;
    let agent = beam.handle(&request.container_id).await?.agent;
    let listing = agent.list_directory(&path).await?;
    Ok(pod::PodSandboxListFilesResponse {
        ok: true,
        files: listing
            .entries
            .iter()
            .map(describe)
            .collect::<Result<_, _>>()?,
        ..Default::default()
    })
}

pub(super) async fn delete_file(
    beam: Beam,
    request: pod::PodSandboxDeleteFileRequest,
) -> Result<pod::PodSandboxDeleteFileResponse, BeamError> {
    remove(&beam, &request.container_id, &request.container_path).await?;
    Ok(pod::PodSandboxDeleteFileResponse {
        ok: true,
        ..Default::default()
    })
}

pub(super) async fn delete_directory(
    beam: Beam,
    request: pod::PodSandboxDeleteDirectoryRequest,
) -> Result<pod::PodSandboxDeleteDirectoryResponse, BeamError> {
    remove(&beam, &request.container_id, &request.container_path).await?;
    Ok(pod::PodSandboxDeleteDirectoryResponse {
        ok: true,
        ..Default::default()
    })
}

/// Beam's two calls are one: recursive, and fine with what is absent.
async fn remove(beam: &Beam, container_id: &str, path: &str) -> Result<(), BeamError> {
    let path = absolute(path)?;
    let agent = beam.handle(container_id).await?.agent;
    Ok(agent.remove(&path).await?)
}

pub(super) async fn create_directory(
    beam: Beam,
    request: pod::PodSandboxCreateDirectoryRequest,
) -> Result<pod::PodSandboxCreateDirectoryResponse, BeamError> {
    let path = absolute(&request.container_path)?;
    let mode = file_mode::from_go(request.mode, NEW_DIRECTORY);
    let agent = beam.handle(&request.container_id).await?.agent;
    agent.create_directory(&path, mode).await?;
    Ok(pod::PodSandboxCreateDirectoryResponse {
        ok: true,
        ..Default::default()
    })
}

pub(super) async fn replace(
    beam: Beam,
    request: pod::PodSandboxReplaceInFilesRequest,
) -> Result<pod::PodSandboxReplaceInFilesResponse, BeamError> {
    let path = absolute(&request.container_path)?;
    let agent = beam.handle(&request.container_id).await?.agent;
    agent
        .replace_in_files(&path, &request.pattern, &request.new_string)
        .await?;
    Ok(pod::PodSandboxReplaceInFilesResponse {
        ok: true,
        ..Default::default()
    })
}

pub(super) async fn find(
    beam: Beam,
    request: pod::PodSandboxFindInFilesRequest,
) -> Result<pod::PodSandboxFindInFilesResponse, BeamError> {
    let path = absolute(&request.container_path)?;
    let agent = beam.handle(&request.container_id).await?.agent;
    let found = agent.find_in_files(&path, &request.pattern).await?;
    if found.truncated {
        return Err(too_large(
            "there are too many matches; search a smaller tree or a rarer pattern",
        ));
    }
    Ok(pod::PodSandboxFindInFilesResponse {
        ok: true,
        results: found.files.iter().map(describe_matches).collect(),
        ..Default::default()
    })
}

/// Relative paths belong to where commands run by default.
fn absolute(path: &str) -> Result<Vec<u8>, BeamError> {
    if path.is_empty() {
        return Err(BeamError::invalid("the path is empty"));
    }
    if path.contains('\0') {
        return Err(BeamError::invalid("the path contains a NUL byte"));
    }
    Ok(if path.starts_with('/') {
        path.as_bytes().to_vec()
    } else {
        format!("{}/{path}", processes::WORKSPACE).into_bytes()
    })
}

fn unsigned(name: &str, value: i64) -> Result<u64, BeamError> {
    u64::try_from(value)
        .map_err(|_negative| BeamError::invalid(format!("{name} is negative: {value}")))
}

fn too_large(reason: impl Into<String>) -> BeamError {
    BeamError::TooLarge {
        reason: reason.into(),
    }
}

fn count(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

fn describe(status: &FileStatus) -> Result<pod::PodSandboxFileInfo, BeamError> {
    let mode = file_mode::to_go(status.mode);
    Ok(pod::PodSandboxFileInfo {
        mode: mode.cast_signed(),
        size: i64::try_from(status.size_bytes)
            .map_err(|_too_large| too_large(format!("a file of {} bytes", status.size_bytes)))?,
        mod_time: status.modified_at_unix_seconds,
        owner: status.uid.to_string(),
        group: status.gid.to_string(),
        is_dir: file_mode::is_directory(status.mode),
        name: String::from_utf8_lossy(&status.name).into_owned(),
        permissions: mode,
    })
}

fn describe_matches(file: &FileMatches) -> types::FileSearchResult {
    types::FileSearchResult {
        path: String::from_utf8_lossy(&file.path).into_owned(),
        matches: file.matches.iter().map(describe_match).collect(),
    }
}

fn describe_match(found: &Match) -> types::FileSearchMatch {
    let position = |line: u32, column: u32| types::FileSearchPosition {
        line: i32::try_from(line).unwrap_or(i32::MAX),
        column: i32::try_from(column).unwrap_or(i32::MAX),
    };
    types::FileSearchMatch {
        range: Some(types::FileSearchRange {
            start: Some(position(found.start_line, found.start_column)),
            end: Some(position(found.end_line, found.end_column)),
        }),
        content: String::from_utf8_lossy(&found.content).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_belong_to_the_workspace() {
        assert_eq!(absolute("a/b").unwrap(), b"/workspace/a/b");
        assert_eq!(absolute("/a\n").unwrap(), b"/a\n");
        assert!(absolute("").is_err());
        assert!(absolute("/a\0").is_err());
    }

    #[test]
    fn a_directory_is_described_in_go_s_words() {
        let info = describe(&FileStatus {
            name: "a".into(),
            mode: 0o041_777,
            size_bytes: 4096,
            modified_at_unix_seconds: 7,
            uid: 0,
            gid: 5,
            ..FileStatus::default()
        })
        .unwrap();
        assert!(info.is_dir && info.mode < 0);
        assert_eq!(info.permissions & 0o7777, 0o777);
        assert_eq!((info.owner.as_str(), info.group.as_str()), ("0", "5"));
    }

    #[test]
    fn negative_offsets_are_refused() {
        assert!(
            unsigned("offset", -1)
                .unwrap_err()
                .to_string()
                .contains("offset")
        );
    }
}
