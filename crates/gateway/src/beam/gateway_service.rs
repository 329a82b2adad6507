//! `gateway.GatewayService`: what sandboxes and `beam container` need of it.

use tonic::{Request, Response, Status, Streaming};

use super::wire::gateway::gateway_service_server::GatewayService;
use super::wire::gateway::{
    AuthorizeRequest, AuthorizeResponse, CheckpointContainerRequest, CheckpointContainerResponse,
    ContainerStreamMessage, ExportWorkspaceConfigRequest, ExportWorkspaceConfigResponse,
    GetOrCreateStubRequest, GetOrCreateStubResponse, HeadObjectRequest, HeadObjectResponse,
    ListContainersRequest, ListContainersResponse, ListDeploymentsRequest, ListDeploymentsResponse,
    PutObjectRequest, PutObjectResponse, StopContainerRequest, StopContainerResponse,
};
use super::{Beam, WORKSPACE_ID, attach, lifecycle, memory, object};

#[tonic::async_trait]
impl GatewayService for Beam {
    type AttachToContainerStream = attach::Answers;

    /// Whoever gets here has shown the token.
    async fn authorize(
        &self,
        _request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        Ok(Response::new(AuthorizeResponse {
            ok: true,
            workspace_id: WORKSPACE_ID.to_owned(),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: Request<HeadObjectRequest>,
    ) -> Result<Response<HeadObjectResponse>, Status> {
        Ok(Response::new(object::head(&request.get_ref().hash)?))
    }

    async fn put_object_stream(
        &self,
        request: Request<Streaming<PutObjectRequest>>,
    ) -> Result<Response<PutObjectResponse>, Status> {
        object::put(request.into_inner()).await.map(Response::new)
    }

    async fn get_or_create_stub(
        &self,
        request: Request<GetOrCreateStubRequest>,
    ) -> Result<Response<GetOrCreateStubResponse>, Status> {
        self.change(request, lifecycle::get_or_create_stub).await
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        self.change(request, lifecycle::stop).await
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        self.read(request, lifecycle::list).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Result<Response<CheckpointContainerResponse>, Status> {
        self.change(request, memory::checkpoint_container).await
    }

    async fn attach_to_container(
        &self,
        request: Request<Streaming<ContainerStreamMessage>>,
    ) -> Result<Response<attach::Answers>, Status> {
        attach::attach(self, request.into_inner())
            .await
            .map(Response::new)
    }

    /// `beam status` asks. Nothing can be deployed, so nothing is.
    async fn list_deployments(
        &self,
        _request: Request<ListDeploymentsRequest>,
    ) -> Result<Response<ListDeploymentsResponse>, Status> {
        Ok(Response::new(ListDeploymentsResponse {
            ok: true,
            ..Default::default()
        }))
    }

    async fn export_workspace_config(
        &self,
        _request: Request<ExportWorkspaceConfigRequest>,
    ) -> Result<Response<ExportWorkspaceConfigResponse>, Status> {
        let addresses = self.inner.addresses;
        Ok(Response::new(ExportWorkspaceConfigResponse {
            gateway_http_host: addresses.http.ip().to_string(),
            gateway_http_port: addresses.http.port().into(),
            gateway_grpc_host: addresses.grpc.ip().to_string(),
            gateway_grpc_port: addresses.grpc.port().into(),
            workspace_id: WORKSPACE_ID.to_owned(),
            ..Default::default()
        }))
    }
}
