//! A request that is answered with an error, in OpenAI's shape.

use crate::sim::json::Object;

/// Status, error object and extra headers of a refused request.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) param: Option<String>,
    pub(super) message: String,
    pub(super) headers: Vec<(&'static str, String)>,
    /// The caller's request was at fault (counted as `invalid`), not the simulated provider.
    pub(super) invalid: bool,
}

impl Refusal {
    /// The provider's own fault, or one that it plays.
    pub(super) fn new(
        status: u16,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Refusal {
            status,
            kind,
            code,
            param: None,
            message: message.into(),
            headers: Vec::new(),
            invalid: false,
        }
    }

    /// A 400 for the field `param`.
    pub(super) fn bad(
        param: impl Into<String>,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        let mut refusal = Refusal::new(400, "invalid_request_error", code, message);
        refusal.param = Some(param.into());
        refusal.invalid = true;
        refusal
    }

    /// The caller's fault with a status and without a field.
    pub(super) fn invalid(
        status: u16,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        let mut refusal = Refusal::new(status, "invalid_request_error", code, message);
        refusal.invalid = true;
        refusal
    }

    /// The same with one more answer header.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same for the field `param`.
    pub(super) fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// `{"error":{…}}`.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.message.len() + 96);
        Object::new(&mut out).nest("error", |out| self.write(out)).end();
        out
    }

    /// The inner object alone.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        Object::new(out)
            .field("message", &self.message)
            .field("type", self.kind)
            .field("param", &self.param)
            .field("code", self.code)
            .end();
    }
}
