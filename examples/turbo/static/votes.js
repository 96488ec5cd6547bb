// Turbo keeps the document when it goes to another page of the site, so this runs once and so does the stream.

import { connect } from "mercure";

connect().on("message", ({ data }) => window.Turbo.renderStreamMessage(data));
