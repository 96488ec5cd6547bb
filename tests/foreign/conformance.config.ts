// The configuration of the suite, with one browser, which is not Playwright's.

import { devices } from "@playwright/test";
import suite from "./playwright.config";

export default {
  ...suite,
  reporter: "json",
  retries: 0,
  workers: 2,
  globalTimeout: 240_000,
  projects: [
    {
      name: "chromium",
      use: {
        ...devices["Desktop Chrome"],
        launchOptions: { executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] },
      },
    },
  ],
};
