//! Stubs: the configuration that the Beam client makes first, and sandboxes from it afterwards.

use std::collections::{BTreeMap, BTreeSet};

use fermata_engine::{ImageId, NetworkPolicy, PortNumber, SandboxId, SandboxSpec};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::failure::BeamError;
use super::network;
use super::wire::gateway::GetOrCreateStubRequest;
use super::{object, ports};

/// Label of a sandbox: the stub it was made from.
pub(super) const STUB_LABEL: &str = "beam.stub_id";
/// Label of a sandbox: the name its user gave.
const APP_LABEL: &str = "beam.app_name";

/// Shorter lifetimes are lengthened to this, as Beam does.
const SHORTEST_KEEP_WARM_SECONDS: u64 = 10;
/// 0 means "stop when idle", but a client must get to its first call.
const IDLE_AT_ONCE_SECONDS: u64 = 5;
const MOST_MILLICORES: u64 = 128_000;
const MEBIBYTE: u64 = 1 << 20;

/// What a sandbox of this stub is to be; nothing else of the request has an effect, or it was refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct StubConfiguration {
    pub(super) app_name: String,
    pub(super) image: Option<ImageId>,
    pub(super) cpu_millicores: u64,
    pub(super) memory_bytes: u64,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) network: NetworkPolicy,
    /// Stubs of earlier versions have none.
    #[serde(default)]
    pub(super) ports: BTreeSet<PortNumber>,
    pub(super) idle_timeout_seconds: Option<u64>,
}

impl StubConfiguration {
    /// Equal configurations give equal text: maps are sorted.
    pub(super) fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// A new sandbox of the stub with this id.
    pub(super) fn sandbox(self, stub_id: &str) -> Result<SandboxSpec, BeamError> {
        let id = container_id(stub_id)?;
        let mut labels = BTreeMap::from([(STUB_LABEL.to_owned(), stub_id.to_owned())]);
        if !self.app_name.is_empty() {
            labels.insert(APP_LABEL.to_owned(), self.app_name);
        }
        Ok(SandboxSpec {
            id: Some(id),
            image: self.image,
            cpu_millicores: self.cpu_millicores,
            memory_bytes: self.memory_bytes,
            environment: self.environment,
            network: self.network,
            ports: self.ports,
            idle_timeout_seconds: self.idle_timeout_seconds,
            labels,
        })
    }
}

/// `sandbox-{stub, 36}-{8}`: clients and URLs take it apart, and with a port number it still is a DNS label.
pub(super) fn container_id(stub_id: &str) -> Result<SandboxId, BeamError> {
    let unique = Uuid::new_v4().simple().to_string();
    format!("sandbox-{stub_id}-{}", &unique[..8])
        .parse()
        .map_err(|error| BeamError::Engine(fermata_engine::EngineError::InvalidId(error)))
}

impl TryFrom<GetOrCreateStubRequest> for StubConfiguration {
    type Error = BeamError;

    fn try_from(request: GetOrCreateStubRequest) -> Result<Self, BeamError> {
        refuse(&request)?;
        let image = match request.image_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(fermata_engine::EngineError::InvalidId)?),
        };
        Ok(Self {
            app_name: request.app_name,
            image,
            cpu_millicores: u64::try_from(request.cpu)
                .ok()
                .filter(|cpu| *cpu <= MOST_MILLICORES)
                .ok_or_else(|| {
                    BeamError::invalid(format!("cpu={} millicores is out of range", request.cpu))
                })?,
            memory_bytes: u64::try_from(request.memory)
                .ok()
                .and_then(|mebibytes| mebibytes.checked_mul(MEBIBYTE))
                .ok_or_else(|| {
                    BeamError::invalid(format!("memory={} MiB is out of range", request.memory))
                })?,
            environment: environment(&request.env)?,
            network: network::policy(request.block_network, &request.allow_list)?,
            ports: request
                .ports
                .iter()
                .map(|number| ports::port((*number).into()))
                .collect::<Result<_, _>>()?,
            idle_timeout_seconds: idle_timeout(request.keep_warm_seconds)?,
        })
    }
}

/// Names each thing that was asked for and would have no effect.
fn refuse(request: &GetOrCreateStubRequest) -> Result<(), BeamError> {
    if request.stub_type != "sandbox" {
        return Err(BeamError::unsupported(format!(
            "stub type {:?}",
            request.stub_type
        )));
    }
    if !object::is_empty_object(&request.object_id) {
        return Err(BeamError::unsupported(
            "sync_local_dir (uploading local files)",
        ));
    }
    let wanted = [
        (!request.gpu.is_empty() || request.gpu_count > 0, "gpu"),
        (!request.volumes.is_empty(), "volumes"),
        (!request.disks.is_empty(), "disks"),
        (!request.secrets.is_empty(), "secrets"),
        (request.docker_enabled, "docker_enabled"),
        (request.use_vm, "use_vm"),
        (request.pool.is_some(), "pool"),
        (request.authorized, "authorized"),
        (
            request.checkpoint_enabled || request.checkpoint_trigger.is_some(),
            "checkpoint_enabled",
        ),
        (request.persistent_root.is_some(), "persistent_root"),
        (
            request.serving.is_some() || request.is_service || request.managed_endpoint,
            "serving",
        ),
        (!request.hostname.is_empty(), "hostname"),
        (!request.handler.is_empty(), "handler"),
        (!request.on_start.is_empty(), "on_start"),
        (
            !request.on_deploy.is_empty() || !request.on_deploy_stub_id.is_empty(),
            "on_deploy",
        ),
        (!request.callback_url.is_empty(), "callback_url"),
        (request.tcp, "tcp"),
        (
            request.inputs.is_some() || request.outputs.is_some(),
            "inputs and outputs",
        ),
    ];
    match wanted.iter().find(|(is_wanted, _)| *is_wanted) {
        Some((_, what)) => Err(BeamError::unsupported(*what)),
        None => Ok(()),
    }
}

/// From `NAME=value` entries; the last of equal names wins.
pub(super) fn environment(entries: &[String]) -> Result<BTreeMap<String, String>, BeamError> {
    entries
        .iter()
        .map(|entry| match entry.split_once('=') {
            Some((_, value)) if value.contains("${{") => Err(BeamError::unsupported(format!(
                "the reference in env entry {entry:?}"
            ))),
            Some((name, value)) if !name.is_empty() && !entry.contains('\0') => {
                Ok((name.to_owned(), value.to_owned()))
            }
            // A value may be a secret, so the entry itself is not repeated.
            _ => Err(BeamError::invalid(
                "an env entry is not of the form NAME=value",
            )),
        })
        .collect()
}

fn idle_timeout(keep_warm_seconds: f32) -> Result<Option<u64>, BeamError> {
    if keep_warm_seconds < 0.0 {
        return Ok(None);
    }
    if !keep_warm_seconds.is_finite() {
        return Err(BeamError::invalid(format!(
            "keep_warm_seconds={keep_warm_seconds} is not a duration"
        )));
    }
    if keep_warm_seconds == 0.0 {
        return Ok(Some(IDLE_AT_ONCE_SECONDS));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite and positive; a float too large for u64 becomes u64::MAX"
    )]
    let seconds = keep_warm_seconds.ceil() as u64;
    Ok(Some(seconds.max(SHORTEST_KEEP_WARM_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::super::wire::gateway::{DurableDisk, PoolConfig, SecretVar, Volume};
    use super::*;

    /// What `Sandbox(cpu=1).create()` sends.
    fn sent() -> GetOrCreateStubRequest {
        GetOrCreateStubRequest {
            object_id: object::EMPTY_OBJECT_ID.to_owned(),
            image_id: "base".to_owned(),
            stub_type: "sandbox".to_owned(),
            name: "sandbox".to_owned(),
            python_version: "python3.11".to_owned(),
            cpu: 1000,
            memory: 128,
            keep_warm_seconds: 600.0,
            workers: 1,
            max_pending_tasks: 100,
            force_create: true,
            concurrent_requests: 1,
            extra: "{}".to_owned(),
            entrypoint: ["tail", "-f", "/dev/null"].map(str::to_owned).to_vec(),
            app_name: "work".to_owned(),
            ..GetOrCreateStubRequest::default()
        }
    }

    #[test]
    fn a_plain_sandbox_becomes_a_spec() {
        let configuration = StubConfiguration::try_from(sent()).unwrap();
        let stub_id = "6f1c2d1e-0000-4000-8000-000000000000";
        let spec = configuration.sandbox(stub_id).unwrap();
        assert_eq!(spec.cpu_millicores, 1000);
        assert_eq!(spec.memory_bytes, 128 << 20);
        assert_eq!(spec.idle_timeout_seconds, Some(600));
        assert_eq!(spec.network, NetworkPolicy::Open);
        assert_eq!(spec.labels[STUB_LABEL], stub_id);
        assert_eq!(spec.labels[APP_LABEL], "work");
        let id = spec.id.unwrap();
        assert_eq!(id.as_str().len(), 53);
        assert!(
            id.as_str().starts_with(&format!("sandbox-{stub_id}-")),
            "{id}"
        );
    }

    #[test]
    fn what_would_have_no_effect_is_refused_by_name() {
        type Change = fn(&mut GetOrCreateStubRequest);
        let cases: [(&str, Change); 12] = [
            ("gpu", |request| request.gpu = "T4".to_owned()),
            ("volumes", |request| {
                request.volumes = vec![Volume::default()];
            }),
            ("disks", |request| {
                request.disks = vec![DurableDisk::default()];
            }),
            ("secrets", |request| {
                request.secrets = vec![SecretVar::default()];
            }),
            ("docker_enabled", |request| request.docker_enabled = true),
            ("use_vm", |request| request.use_vm = true),
            ("pool", |request| request.pool = Some(PoolConfig::default())),
            ("authorized", |request| request.authorized = true),
            ("checkpoint_enabled", |request| {
                request.checkpoint_enabled = true;
            }),
            ("sync_local_dir", |request| {
                request.object_id = "other".to_owned();
            }),
            ("stub type", |request| request.stub_type = "pod".to_owned()),
            ("hostname", |request| request.hostname = "a".to_owned()),
        ];
        for (name, change) in cases {
            let mut request = sent();
            change(&mut request);
            let error = StubConfiguration::try_from(request).unwrap_err();
            assert!(
                matches!(error, BeamError::Unsupported { .. }),
                "{name}: {error:?}"
            );
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn ports_are_taken_once_each_and_must_be_ports() {
        let with = |ports: &[u32]| GetOrCreateStubRequest {
            ports: ports.to_vec(),
            ..sent()
        };
        let configuration = StubConfiguration::try_from(with(&[8000, 80, 8000])).unwrap();
        let ports: Vec<u16> = configuration.ports.iter().map(|port| port.get()).collect();
        assert_eq!(ports, [80, 8000]);
        for wrong in [0, 65_536, u32::MAX] {
            let error = StubConfiguration::try_from(with(&[8000, wrong])).unwrap_err();
            assert!(error.chain().contains(&wrong.to_string()), "{error:?}");
        }
    }

    #[test]
    fn lifetimes_follow_beam() {
        for (sent, meant) in [
            (-1.0, None),
            (0.0, Some(IDLE_AT_ONCE_SECONDS)),
            (0.5, Some(10)),
            (9.0, Some(10)),
            (10.0, Some(10)),
            (10.5, Some(11)),
            (600.0, Some(600)),
        ] {
            assert_eq!(idle_timeout(sent).unwrap(), meant, "{sent}");
        }
        assert!(idle_timeout(f32::NAN).is_err());
        assert!(idle_timeout(f32::INFINITY).is_err());
    }

    #[test]
    fn environment_entries_are_taken_apart_at_the_first_equals_sign() {
        let entries = ["A=1", "B=x=y", "C=", "A=2"].map(str::to_owned);
        let environment = environment(&entries).unwrap();
        assert_eq!(environment["A"], "2");
        assert_eq!(environment["B"], "x=y");
        assert_eq!(environment["C"], "");
        for wrong in ["A", "=1", "A=\0"] {
            assert!(
                super::environment(&[wrong.to_owned()]).is_err(),
                "{wrong:?}"
            );
        }
        let error = super::environment(&["A=${{ secrets.B }}".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("reference"), "{error}");
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for (cpu, memory) in [(-1, 128), (128_001, 128), (1000, -1), (1000, i64::MAX)] {
            let request = GetOrCreateStubRequest {
                cpu,
                memory,
                ..sent()
            };
            assert!(matches!(
                StubConfiguration::try_from(request),
                Err(BeamError::Invalid { .. })
            ));
        }
    }

    #[test]
    fn equal_configurations_are_equal_text() {
        let text = StubConfiguration::try_from(sent()).unwrap().to_json();
        assert_eq!(text, StubConfiguration::try_from(sent()).unwrap().to_json());
        assert_eq!(
            serde_json::from_str::<StubConfiguration>(&text)
                .unwrap()
                .to_json(),
            text
        );
    }
}
