//! `pod.PodService`: which call is done where, and how it bears repetition.

use tonic::{Request, Response, Status};

use super::failure::{Answer, BeamError};
use super::wire::pod::pod_service_server::PodService;
use super::wire::pod::*;
use super::{Beam, files, lifecycle, memory, output, ports, processes};

#[tonic::async_trait]
impl PodService for Beam {
    async fn create_pod(
        &self,
        request: Request<CreatePodRequest>,
    ) -> Result<Response<CreatePodResponse>, Status> {
        self.change(request, lifecycle::create).await
    }

    async fn sandbox_exec(
        &self,
        request: Request<PodSandboxExecRequest>,
    ) -> Result<Response<PodSandboxExecResponse>, Status> {
        self.change_by_agent(request, processes::exec).await
    }

    async fn sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        self.read(request, processes::status).await
    }

    async fn sandbox_stdout(
        &self,
        request: Request<PodSandboxStdoutRequest>,
    ) -> Result<Response<PodSandboxStdoutResponse>, Status> {
        self.change_by_agent(request, output::stdout).await
    }

    async fn sandbox_stderr(
        &self,
        request: Request<PodSandboxStderrRequest>,
    ) -> Result<Response<PodSandboxStderrResponse>, Status> {
        self.change_by_agent(request, output::stderr).await
    }

    async fn sandbox_kill(
        &self,
        request: Request<PodSandboxKillRequest>,
    ) -> Result<Response<PodSandboxKillResponse>, Status> {
        self.change(request, processes::kill).await
    }

    async fn sandbox_list_processes(
        &self,
        request: Request<PodSandboxListProcessesRequest>,
    ) -> Result<Response<PodSandboxListProcessesResponse>, Status> {
        self.read(request, processes::list).await
    }

    async fn sandbox_upload_file(
        &self,
        request: Request<PodSandboxUploadFileRequest>,
    ) -> Result<Response<PodSandboxUploadFileResponse>, Status> {
        self.change(request, files::upload).await
    }

    async fn sandbox_download_file(
        &self,
        request: Request<PodSandboxDownloadFileRequest>,
    ) -> Result<Response<PodSandboxDownloadFileResponse>, Status> {
        self.read(request, files::download).await
    }

    async fn sandbox_stat_file(
        &self,
        request: Request<PodSandboxStatFileRequest>,
    ) -> Result<Response<PodSandboxStatFileResponse>, Status> {
        self.read(request, files::stat).await
    }

    async fn sandbox_list_files(
        &self,
        request: Request<PodSandboxListFilesRequest>,
    ) -> Result<Response<PodSandboxListFilesResponse>, Status> {
        self.read(request, files::list).await
    }

    async fn sandbox_delete_file(
        &self,
        request: Request<PodSandboxDeleteFileRequest>,
    ) -> Result<Response<PodSandboxDeleteFileResponse>, Status> {
        self.change(request, files::delete_file).await
    }

    async fn sandbox_create_directory(
        &self,
        request: Request<PodSandboxCreateDirectoryRequest>,
    ) -> Result<Response<PodSandboxCreateDirectoryResponse>, Status> {
        self.change(request, files::create_directory).await
    }

    async fn sandbox_delete_directory(
        &self,
        request: Request<PodSandboxDeleteDirectoryRequest>,
    ) -> Result<Response<PodSandboxDeleteDirectoryResponse>, Status> {
        self.change(request, files::delete_directory).await
    }

    async fn sandbox_replace_in_files(
        &self,
        request: Request<PodSandboxReplaceInFilesRequest>,
    ) -> Result<Response<PodSandboxReplaceInFilesResponse>, Status> {
        self.change(request, files::replace).await
    }

    async fn sandbox_find_in_files(
        &self,
        request: Request<PodSandboxFindInFilesRequest>,
    ) -> Result<Response<PodSandboxFindInFilesResponse>, Status> {
        self.read(request, files::find).await
    }

    async fn sandbox_expose_port(
        &self,
        request: Request<PodSandboxExposePortRequest>,
    ) -> Result<Response<PodSandboxExposePortResponse>, Status> {
        self.change(request, ports::expose).await
    }

    async fn sandbox_list_urls(
        &self,
        request: Request<PodSandboxListUrlsRequest>,
    ) -> Result<Response<PodSandboxListUrlsResponse>, Status> {
        self.read(request, ports::list_urls).await
    }

    async fn sandbox_update_network_permissions(
        &self,
        request: Request<PodSandboxUpdateNetworkPermissionsRequest>,
    ) -> Result<Response<PodSandboxUpdateNetworkPermissionsResponse>, Status> {
        self.change(request, lifecycle::update_network).await
    }

    async fn sandbox_connect(
        &self,
        request: Request<PodSandboxConnectRequest>,
    ) -> Result<Response<PodSandboxConnectResponse>, Status> {
        self.read(request, lifecycle::connect).await
    }

    async fn sandbox_update_ttl(
        &self,
        request: Request<PodSandboxUpdateTtlRequest>,
    ) -> Result<Response<PodSandboxUpdateTtlResponse>, Status> {
        self.change(request, lifecycle::update_ttl).await
    }

    async fn sandbox_create_image_from_filesystem(
        &self,
        request: Request<PodSandboxCreateImageFromFilesystemRequest>,
    ) -> Result<Response<PodSandboxCreateImageFromFilesystemResponse>, Status> {
        self.change(request, lifecycle::create_image).await
    }

    async fn sandbox_snapshot_memory(
        &self,
        request: Request<PodSandboxSnapshotMemoryRequest>,
    ) -> Result<Response<PodSandboxSnapshotMemoryResponse>, Status> {
        self.change(request, memory::snapshot).await
    }

    async fn sandbox_snapshot_disks(
        &self,
        _request: Request<PodSandboxSnapshotDisksRequest>,
    ) -> Result<Response<PodSandboxSnapshotDisksResponse>, Status> {
        Ok(not_offered("durable disks (snapshot_disks)"))
    }
}

fn not_offered<A: Answer>(what: &str) -> Response<A> {
    Response::new(A::failure(&BeamError::unsupported(what)))
}
