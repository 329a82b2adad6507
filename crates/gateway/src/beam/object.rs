//! Uploaded files. None are taken yet; but the client always asks for one object, the empty one.

use futures::{Stream, StreamExt as _};
use tonic::Status;

use super::failure::BeamError;
use super::wire::gateway::{
    HeadObjectResponse, ObjectMetadata, PutObjectRequest, PutObjectResponse,
};

/// Stands for "no files".
pub(super) const EMPTY_OBJECT_ID: &str = "00000000-0000-0000-0000-000000000000";
/// SHA-256 of nothing: what the client asks for when it has no files to send.
const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// An archive without entries is its end record alone.
const EMPTY_ZIP: &[u8] = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Clients that skip the upload send no id at all.
pub(super) fn is_empty_object(id: &str) -> bool {
    id.is_empty() || id == EMPTY_OBJECT_ID
}

/// The client shows nothing of an `error_msg` here, so a refusal is a status.
pub(super) fn head(hash: &str) -> Result<HeadObjectResponse, BeamError> {
    if hash != EMPTY_HASH {
        return Err(files_refused());
    }
    Ok(HeadObjectResponse {
        ok: true,
        exists: true,
        object_id: EMPTY_OBJECT_ID.to_owned(),
        object_metadata: Some(ObjectMetadata::default()),
        ..HeadObjectResponse::default()
    })
}

/// Takes an archive without entries.
pub(super) async fn put(
    mut parts: impl Stream<Item = Result<PutObjectRequest, Status>> + Unpin,
) -> Result<PutObjectResponse, Status> {
    let mut archive = Vec::new();
    while let Some(part) = parts.next().await {
        archive.extend_from_slice(&part?.object_content);
        if archive.len() > EMPTY_ZIP.len() {
            return Err(files_refused().into());
        }
    }
    if archive != EMPTY_ZIP {
        return Err(BeamError::invalid("the uploaded object is not an archive").into());
    }
    Ok(PutObjectResponse {
        ok: true,
        object_id: EMPTY_OBJECT_ID.to_owned(),
        ..PutObjectResponse::default()
    })
}

fn files_refused() -> BeamError {
    BeamError::unsupported(
        "uploading local files (sync_local_dir, add_local_path, from_dockerfile)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put_parts(parts: &[&'static [u8]]) -> Result<PutObjectResponse, Status> {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| {
                Ok(PutObjectRequest {
                    object_content: (*part).into(),
                    ..PutObjectRequest::default()
                })
            })
            .collect();
        put(futures::stream::iter(parts)).await
    }

    #[test]
    fn only_the_empty_object_exists() {
        let found = head(EMPTY_HASH).unwrap();
        assert!(found.ok && found.exists);
        assert!(is_empty_object(&found.object_id));
        let refusal = head("something else").unwrap_err().to_string();
        assert!(refusal.contains("sync_local_dir"), "{refusal}");
    }

    #[tokio::test]
    async fn an_archive_without_entries_is_the_empty_object() {
        assert_eq!(EMPTY_ZIP.len(), 22);
        let answer = put_parts(&[&EMPTY_ZIP[..10], &EMPTY_ZIP[10..]])
            .await
            .unwrap();
        assert!(answer.ok && is_empty_object(&answer.object_id));
    }

    #[tokio::test]
    async fn an_archive_with_entries_is_refused_without_reading_all_of_it() {
        let refused = put_parts(&[b"PK\x03\x04 and much more than an empty archive has"]).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);
        let broken = put_parts(&[b"PK"]).await;
        assert_eq!(broken.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
