# Part of `cmake --install`: writes share/modulefiles/automodel/VERSION for the prefix of this installation.
# DESTDIR is where the files are put for now (a package's staging folder); inside the module file stands the
# prefix without it.  install_rules.cmake sets AM_SOURCE_DIR, AM_VERSION, AM_MPI_NAME and AM_MODULE_PREREQ.
set(AM_PREFIX "${CMAKE_INSTALL_PREFIX}")

# A colon would cut entries of PATH in two; the others mean something to Tcl or CMake.
if(NOT AM_PREFIX MATCHES "^/" OR AM_PREFIX MATCHES "[][{}$\\\\\":;]")
  message(FATAL_ERROR "The prefix ${AM_PREFIX} cannot stand in a module file: choose an absolute path "
                      "without any of : ; $ \" \\ [ ] { }")
endif()
if(AM_PREFIX MATCHES "[ \t]")
  message("-- Note: Lmod does not read module files below a path with a blank; copy this one to where it can")
endif()

set(AM_PREREQ "")
foreach(required IN LISTS AM_MODULE_PREREQ)
  string(APPEND AM_PREREQ "prereq ${required}\n")
endforeach()
set(module "${AM_PREFIX}/share/modulefiles/automodel/${AM_VERSION}")
message(STATUS "Installing: $ENV{DESTDIR}${module}")
configure_file("${AM_SOURCE_DIR}/modulefiles/automodel.in" "$ENV{DESTDIR}${module}" @ONLY
               FILE_PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
list(APPEND CMAKE_INSTALL_MANIFEST_FILES "${module}")
