import { EventSource } from "launchdarkly-eventsource";
import { headers, tell, url } from "./given.mjs";

const source = new EventSource(url.href, { headers });
source.onmessage = ({ lastEventId, data }) => tell(lastEventId, data);
source.onerror = () => {}; // Node ends a process with an error that nobody listens to
