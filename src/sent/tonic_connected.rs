//! tonic: the connect info of a [`SentStream`].

use tonic::transport::server::Connected;

use super::{connect_info::SentConnectInfo, stream::SentStream};

/// Add [`SentLayer`](super::SentLayer) to the server. The layer puts the connect info of the
/// wrapped stream into the extensions of each request.
impl<T: Connected> Connected for SentStream<T> {
    type ConnectInfo = SentConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        SentConnectInfo::new(self.connection(), self.get_ref().connect_info())
    }
}
