//! Image definitions in the Beam client's form.

use fermata_engine::{BuildSpec, BuildStep};

use super::failure::BeamError;
use super::stub;
use super::wire::image::{self, BuildImageRequest, VerifyImageBuildRequest};

/// The base image has Python 3.11 as `python` and `python3`.
const PYTHON_VERSIONS: [&str; 3] = ["", "python3", "python3.11"];

/// What both calls of the image service describe.
#[derive(Debug, Default)]
pub(super) struct ImageDefinition {
    pub(super) python_version: String,
    python_packages: Vec<String>,
    commands: Vec<String>,
    build_steps: Vec<image::BuildStep>,
    env_vars: Vec<String>,
    existing_image_uri: String,
    existing_image_credentials: bool,
    dockerfile: String,
    build_context_object: String,
    secrets: Vec<String>,
    gpu: String,
    git_source: String,
}

impl From<VerifyImageBuildRequest> for ImageDefinition {
    fn from(request: VerifyImageBuildRequest) -> Self {
        Self {
            python_version: request.python_version,
            python_packages: request.python_packages,
            commands: request.commands,
            build_steps: request.build_steps,
            env_vars: request.env_vars,
            existing_image_uri: request.existing_image_uri,
            existing_image_credentials: false,
            dockerfile: request.dockerfile,
            build_context_object: request.build_ctx_object,
            secrets: request.secrets,
            gpu: request.gpu,
            git_source: request.git_source,
        }
    }
}

impl From<BuildImageRequest> for ImageDefinition {
    fn from(request: BuildImageRequest) -> Self {
        Self {
            python_version: request.python_version,
            python_packages: request.python_packages,
            commands: request.commands,
            build_steps: request.build_steps,
            env_vars: request.env_vars,
            existing_image_uri: request.existing_image_uri,
            existing_image_credentials: !request.existing_image_creds.is_empty(),
            dockerfile: request.dockerfile,
            build_context_object: request.build_ctx_object,
            secrets: request.secrets,
            gpu: request.gpu,
            git_source: request.git_source,
        }
    }
}

impl ImageDefinition {
    /// Whether it asks for more than an image as it is.
    pub(super) fn asks_for_changes(&self) -> bool {
        self.refuse().is_err() || !self.is_plain()
    }

    fn is_plain(&self) -> bool {
        self.python_packages.is_empty()
            && self.commands.is_empty()
            && self.build_steps.is_empty()
            && self.env_vars.is_empty()
    }

    /// What the engine is to build; `None` when that is the base image itself.
    pub(super) fn build_spec(&self) -> Result<Option<BuildSpec>, BeamError> {
        self.refuse()?;
        if !PYTHON_VERSIONS.contains(&self.python_version.as_str()) {
            return Err(BeamError::unsupported(format!(
                "python_version {:?} (use python3.11)",
                self.python_version
            )));
        }
        if self.is_plain() {
            return Ok(None);
        }
        Ok(Some(BuildSpec {
            from: None,
            steps: self.steps()?,
            environment: stub::environment(&self.env_vars)?,
        }))
    }

    fn refuse(&self) -> Result<(), BeamError> {
        let wanted = [
            (
                !self.existing_image_uri.is_empty(),
                "from_registry (base_image)",
            ),
            (self.existing_image_credentials, "base_image_creds"),
            (!self.dockerfile.is_empty(), "from_dockerfile"),
            (
                !super::object::is_empty_object(&self.build_context_object),
                "add_local_path (build context)",
            ),
            (!self.secrets.is_empty(), "with_secrets"),
            (!self.gpu.is_empty(), "build_with_gpu"),
            (!self.git_source.is_empty(), "git_source"),
            (self.python_version.starts_with("micromamba"), "micromamba"),
        ];
        match wanted.iter().find(|(is_wanted, _)| *is_wanted) {
            Some((_, what)) => Err(BeamError::unsupported(*what)),
            None => Ok(()),
        }
    }

    /// Packages first, then steps as written, then commands. The client sends one step a package; neighbours go to one
    /// `pip install`, which resolves them together.
    fn steps(&self) -> Result<Vec<BuildStep>, BeamError> {
        let mut steps = Vec::new();
        let mut packages = self.python_packages.clone();
        for step in &self.build_steps {
            match step.r#type.as_str() {
                "pip" => packages.push(step.command.clone()),
                "shell" => {
                    push_packages(&mut steps, &mut packages);
                    steps.push(BuildStep::Shell(step.command.clone()));
                }
                "micromamba" => return Err(BeamError::unsupported("add_micromamba_packages")),
                other => return Err(BeamError::unsupported(format!("build step type {other:?}"))),
            }
        }
        push_packages(&mut steps, &mut packages);
        steps.extend(self.commands.iter().cloned().map(BuildStep::Shell));
        Ok(steps)
    }
}

fn push_packages(steps: &mut Vec<BuildStep>, packages: &mut Vec<String>) {
    if !packages.is_empty() {
        steps.push(BuildStep::Pip(std::mem::take(packages)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &str, command: &str) -> image::BuildStep {
        image::BuildStep {
            r#type: kind.to_owned(),
            command: command.to_owned(),
        }
    }

    #[test]
    fn the_default_image_is_the_base_image() {
        for version in PYTHON_VERSIONS {
            let definition = ImageDefinition {
                python_version: version.to_owned(),
                ..ImageDefinition::default()
            };
            assert_eq!(definition.build_spec().unwrap(), None);
        }
    }

    #[test]
    fn steps_keep_their_order_and_neighbouring_packages_are_installed_together() {
        let definition = ImageDefinition {
            python_packages: vec!["a".to_owned()],
            build_steps: vec![
                step("pip", "b"),
                step("shell", "echo 1"),
                step("pip", "c"),
                step("pip", "d"),
            ],
            commands: vec!["echo 2".to_owned()],
            env_vars: vec!["X=1".to_owned()],
            ..ImageDefinition::default()
        };
        let spec = definition.build_spec().unwrap().unwrap();
        assert_eq!(
            spec.steps,
            [
                BuildStep::Pip(vec!["a".to_owned(), "b".to_owned()]),
                BuildStep::Shell("echo 1".to_owned()),
                BuildStep::Pip(vec!["c".to_owned(), "d".to_owned()]),
                BuildStep::Shell("echo 2".to_owned()),
            ]
        );
        assert_eq!(spec.environment["X"], "1");
    }

    #[test]
    fn what_cannot_be_built_is_refused_by_name() {
        type Change = fn(&mut ImageDefinition);
        let cases: [(&str, Change); 10] = [
            ("from_registry", |image| {
                image.existing_image_uri = "docker.io/x".to_owned();
            }),
            ("base_image_creds", |image| {
                image.existing_image_credentials = true;
            }),
            ("from_dockerfile", |image| {
                image.dockerfile = "FROM x".to_owned();
            }),
            ("add_local_path", |image| {
                image.build_context_object = "x".to_owned();
            }),
            ("with_secrets", |image| image.secrets = vec!["x".to_owned()]),
            ("build_with_gpu", |image| image.gpu = "T4".to_owned()),
            ("git_source", |image| image.git_source = "x".to_owned()),
            ("micromamba", |image| {
                image.python_version = "micromamba3.11".to_owned();
            }),
            ("add_micromamba_packages", |image| {
                image.build_steps = vec![step("micromamba", "x")];
            }),
            ("python3.9", |image| {
                image.python_version = "python3.9".to_owned();
            }),
        ];
        for (name, change) in cases {
            let mut definition = ImageDefinition::default();
            change(&mut definition);
            let error = definition.build_spec().unwrap_err();
            assert!(
                matches!(error, BeamError::Unsupported { .. }),
                "{name}: {error:?}"
            );
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }
}
