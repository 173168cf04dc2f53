"""Arguments, settings, packages and keys."""

from __future__ import annotations

from provider_uploads.errors.base import PermanentError


class InvalidRequestError(PermanentError, ValueError):
    """An invalid argument."""

    def __init__(self, field: str, value: str, problem: str) -> None:
        super().__init__(field, value, problem)
        self.field = field
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}={self.value}: {self.problem}"


class ConfigurationError(PermanentError):
    """This process is set up in a way that cannot work."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class MissingDependencyError(ConfigurationError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package)
        self.args = (package, extra)
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.package} is not installed. Run: pip install 'provider-uploads[{self.extra}]'"


class MissingCredentialsError(ConfigurationError):
    """No API key where one is needed."""

    def __init__(self, provider: str, profile: str = "default") -> None:
        super().__init__(provider)
        self.args = (provider, profile)
        self.provider = provider
        self.profile = profile

    def __str__(self) -> str:
        if self.provider == "Google Cloud":
            return (
                "no usable Google Cloud credentials. Run: gcloud auth application-default login, "
                "or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
            )
        whose, variable = self.provider, "GEMINI_API_KEY"
        if self.profile != "default":
            whose = f"{self.provider} in profile {self.profile!r}"
            variable = f"PROVIDER_UPLOADS_PROFILES__{self.profile.upper()}__API_KEY"
        return (
            f"no API key for {whose}. Set {variable} where the file is sent from: here for a "
            "direct call, at the workers for a queue (keys never travel in messages)."
        )
