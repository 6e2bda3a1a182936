//! [`RequestFields`]: what events and spans say of a request.

/// What events and spans say of the request that a task belongs to. All fields of a task without a
/// request are `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestFields<'a> {
    pub(super) method: Option<&'a str>,
    pub(super) path: Option<&'a str>,
    pub(super) id: Option<&'a str>,
}

impl<'a> RequestFields<'a> {
    pub(crate) const fn new(method: &'a str, path: &'a str, id: Option<&'a str>) -> Self {
        let (method, path) = (Some(method), Some(path));
        Self { method, path, id }
    }
}
