//! tonic: tracked connections tell of their client what the wrapped ones do.

use tonic::transport::server::Connected;

use crate::{sent_connection::SentConnectInfo, sent_stream::SentStream};

/// What the wrapped stream tells is put into the extensions by [`Background`](crate::Background).
impl<T: Connected> Connected for SentStream<T> {
    type ConnectInfo = SentConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        SentConnectInfo::new(self.connection(), self.get_ref().connect_info())
    }
}
