#!/bin/sh
# The chat is tested in headless Chromium. As root on Debian this installs it; elsewhere those tests are
# skipped, with the reason, unless CI is set.
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null 2>&1
fi
exit 0
