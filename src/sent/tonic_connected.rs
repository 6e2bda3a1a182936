//! tonic: a tracked connection has the connect info of the stream that it wraps.

use tonic::transport::server::Connected;

use super::{connect_info::SentConnectInfo, stream::SentStream};

/// Add [`SentLayer`](super::SentLayer) to the server. It puts the connect info of the wrapped
/// stream into the extensions.
impl<T: Connected> Connected for SentStream<T> {
    type ConnectInfo = SentConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        SentConnectInfo::new(self.connection(), self.get_ref().connect_info())
    }
}
